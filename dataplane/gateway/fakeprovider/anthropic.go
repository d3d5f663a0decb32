package fakeprovider

import (
	"net/http"
	"strings"
)

// anthropic is the Messages API.
func anthropic() dialect {
	return dialect{
		credential: func(header http.Header) string { return header.Get("X-Api-Key") },
		problem:    anthropicProblem,
		asks:       bodyAsks,
		whole:      anthropicWhole,
		begin: func(a ask) []event {
			block := object{"type": "text", "text": ""}
			return []event{
				{"message_start", object{"type": "message_start", "message": anthropicMessage(a, []object{}, nil, 0)}},
				{"content_block_start", object{"type": "content_block_start", "index": 0, "content_block": block}},
				{"ping", object{"type": "ping"}},
			}
		},
		piece: func(_ ask, text string) event {
			delta := object{"type": "text_delta", "text": text}
			return event{"content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": delta}}
		},
		end: func(_ ask, pieces int) []event {
			delta := object{"stop_reason": "end_turn", "stop_sequence": nil}
			usage := object{"output_tokens": pieces}
			return []event{
				{"content_block_stop", object{"type": "content_block_stop", "index": 0}},
				{"message_delta", object{"type": "message_delta", "delta": delta, "usage": usage}},
				{"message_stop", object{"type": "message_stop"}},
			}
		},
	}
}

func anthropicProblem(status int) any {
	kind, text := "invalid_request_error", message(status)
	switch status {
	case http.StatusUnauthorized:
		kind, text = "authentication_error", "invalid x-api-key"
	case http.StatusForbidden:
		kind = "permission_error"
	}
	return object{
		"type": "error", "error": object{"type": kind, "message": text}, "request_id": "req_standin",
	}
}

func anthropicWhole(a ask, text string) any {
	content := []object{{"type": "text", "text": text}}
	return anthropicMessage(a, content, "end_turn", strings.Count(text, " ")+1)
}

func anthropicMessage(a ask, content []object, stop any, tokens int) object {
	return object{
		"id": "msg_standin", "type": "message", "role": "assistant", "model": a.Model, "content": content,
		"stop_reason": stop, "stop_sequence": nil, "usage": object{"input_tokens": 1, "output_tokens": tokens},
	}
}
