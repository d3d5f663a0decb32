package fakeprovider

import (
	"net/http"
	"strconv"
	"strings"
)

// created is when every answer says that it was made: answers are the same each time.
const created = 1_750_000_000

// openAI is the API of OpenAI and of the many that follow it.
func openAI() dialect {
	return dialect{
		credential: bearer,
		problem:    openAIProblem,
		asks:       bodyAsks,
		whole:      openAIWhole,
		begin: func(a ask) []event {
			return []event{openAIChunk(a, object{"role": "assistant", "content": ""}, nil)}
		},
		piece: func(a ask, text string) event { return openAIChunk(a, object{"content": text}, nil) },
		end:   openAIEnd,
	}
}

// azure is OpenAI's API on Azure: another header for the key, and the deployment in the path instead of a model.
func azure() dialect {
	api := openAI()
	api.credential = func(header http.Header) string { return header.Get("Api-Key") }
	api.problem = func(status int) any {
		return object{"error": object{"code": strconv.Itoa(status), "message": message(status)}}
	}
	api.asks = func(r *http.Request) (ask, bool) {
		a, _ := bodyAsks(r)
		a.Model = r.PathValue("deployment")
		return a, true
	}
	return api
}

func bearer(header http.Header) string {
	scheme, secret, _ := strings.Cut(header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(secret)
}

// message is the refusal's text for people. It never holds the credential, as some providers' do.
func message(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "Incorrect API key provided."
	case http.StatusForbidden:
		return "The API key has no access to this resource."
	default:
		return http.StatusText(status) + "."
	}
}

func openAIProblem(status int) any {
	var code any
	switch status {
	case http.StatusUnauthorized:
		code = "invalid_api_key"
	case http.StatusForbidden:
		code = "permission_denied"
	}
	return object{"error": object{
		"message": message(status), "type": "invalid_request_error", "param": nil, "code": code,
	}}
}

func openAIWhole(a ask, text string) any {
	return object{
		"id": "chatcmpl-standin", "object": "chat.completion", "created": created, "model": a.Model,
		"choices": []object{{
			"index": 0, "finish_reason": "stop", "logprobs": nil,
			"message": object{"role": "assistant", "content": text, "refusal": nil},
		}},
		"usage": openAIUsage(strings.Count(text, " ") + 1),
	}
}

func openAIUsage(completion int) object {
	return object{"prompt_tokens": 1, "completion_tokens": completion, "total_tokens": 1 + completion}
}

func openAIChunk(a ask, delta object, finish any) event {
	return openAIChunkOf(a, []object{{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}}, nil)
}

func openAIChunkOf(a ask, choices []object, usage any) event {
	chunk := object{
		"id": "chatcmpl-standin", "object": "chat.completion.chunk", "created": created, "model": a.Model,
		"choices": choices,
	}
	if a.StreamOptions.IncludeUsage {
		chunk["usage"] = usage
	}
	return event{data: chunk}
}

func openAIEnd(a ask, pieces int) []event {
	events := []event{openAIChunk(a, object{}, "stop")}
	if a.StreamOptions.IncludeUsage {
		events = append(events, openAIChunkOf(a, []object{}, openAIUsage(pieces)))
	}
	return append(events, event{data: "[DONE]"})
}
