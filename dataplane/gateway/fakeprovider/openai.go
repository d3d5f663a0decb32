package fakeprovider

import (
	"net/http"
	"strconv"
	"strings"
)

// created is the time in every answer, so that answers are always the same.
const created = 1_750_000_000

// openAI is the API of OpenAI and of the providers that are compatible with it.
func openAI() dialect {
	return dialect{
		credential: bearer,
		problem:    openAIProblem,
		parse:      parseBody,
		whole:      openAIWhole,
		begin: func(c completionRequest) []event {
			return []event{openAIChunk(c, object{"role": "assistant", "content": ""}, nil)}
		},
		piece: func(c completionRequest, text string) event { return openAIChunk(c, object{"content": text}, nil) },
		end:   openAIEnd,
	}
}

// azure is OpenAI's API on Azure, which differs in the header for the key and names a deployment in the path.
func azure() dialect {
	api := openAI()
	api.credential = func(header http.Header) string { return header.Get("Api-Key") }
	api.problem = func(status int) any {
		return object{"error": object{"code": strconv.Itoa(status), "message": message(status)}}
	}
	api.parse = func(r *http.Request) (completionRequest, bool) {
		c, _ := parseBody(r)
		c.Model = r.PathValue("deployment")
		return c, true
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

// message returns the text of a refusal. Unlike some providers' texts, it never contains the credential.
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

func openAIWhole(c completionRequest, text string) any {
	return object{
		"id": "chatcmpl-fake", "object": "chat.completion", "created": created, "model": c.Model,
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

func openAIChunk(c completionRequest, delta object, finish any) event {
	return openAIChunkOf(c, []object{{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}}, nil)
}

func openAIChunkOf(c completionRequest, choices []object, usage any) event {
	chunk := object{
		"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": created, "model": c.Model,
		"choices": choices,
	}
	if c.StreamOptions.IncludeUsage {
		chunk["usage"] = usage
	}
	return event{data: chunk}
}

func openAIEnd(c completionRequest, pieces int) []event {
	events := []event{openAIChunk(c, object{}, "stop")}
	if c.StreamOptions.IncludeUsage {
		events = append(events, openAIChunkOf(c, []object{}, openAIUsage(pieces)))
	}
	return append(events, event{data: "[DONE]"})
}
