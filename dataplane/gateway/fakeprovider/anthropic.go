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
		parse:      parseBody,
		whole:      anthropicWhole,
		begin: func(c completionRequest) []event {
			block := object{"type": "text", "text": ""}
			return []event{
				{"message_start", object{"type": "message_start", "message": anthropicMessage(c, []object{}, nil, 0)}},
				{"content_block_start", object{"type": "content_block_start", "index": 0, "content_block": block}},
				{"ping", object{"type": "ping"}},
			}
		},
		piece: func(_ completionRequest, text string) event {
			delta := object{"type": "text_delta", "text": text}
			return event{"content_block_delta", object{"type": "content_block_delta", "index": 0, "delta": delta}}
		},
		end: func(_ completionRequest, pieces int) []event {
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
		"type": "error", "error": object{"type": kind, "message": text}, "request_id": "req_fake",
	}
}

func anthropicWhole(c completionRequest, text string) any {
	content := []object{{"type": "text", "text": text}}
	return anthropicMessage(c, content, "end_turn", strings.Count(text, " ")+1)
}

func anthropicMessage(c completionRequest, content []object, stop any, tokens int) object {
	return object{
		"id": "msg_fake", "type": "message", "role": "assistant", "model": c.Model, "content": content,
		"stop_reason": stop, "stop_sequence": nil, "usage": object{"input_tokens": 1, "output_tokens": tokens},
	}
}
