package fakeprovider

import (
	"net/http"
	"strings"
)

// gemini is Google's API, whose path names the model and whether to stream.
func gemini() dialect {
	return dialect{
		credential: func(header http.Header) string { return header.Get("X-Goog-Api-Key") },
		problem:    geminiProblem,
		parse: func(r *http.Request) (completionRequest, bool) {
			model, call, _ := strings.Cut(r.PathValue("call"), ":")
			stream := call == "streamGenerateContent"
			return completionRequest{Model: model, Stream: stream}, stream || call == "generateContent"
		},
		whole: func(c completionRequest, text string) any { return geminiAnswer(c, text, "STOP") },
		begin: func(completionRequest) []event { return nil },
		piece: func(c completionRequest, text string) event { return event{data: geminiAnswer(c, text, nil)} },
		end:   func(c completionRequest, _ int) []event { return []event{{data: geminiAnswer(c, "", "STOP")}} },
	}
}

func geminiProblem(status int) any {
	kind := "INVALID_ARGUMENT"
	switch status {
	case http.StatusUnauthorized:
		kind = "UNAUTHENTICATED"
	case http.StatusForbidden:
		kind = "PERMISSION_DENIED"
	}
	return object{"error": object{"code": status, "message": message(status), "status": kind}}
}

func geminiAnswer(c completionRequest, text string, finish any) object {
	content := object{"role": "model", "parts": []object{{"text": text}}}
	candidate := object{"index": 0, "content": content}
	if finish != nil {
		candidate["finishReason"] = finish
	}
	return object{"candidates": []object{candidate}, "modelVersion": c.Model}
}
