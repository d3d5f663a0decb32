package fakeprovider

import (
	"net/http"
	"strings"
)

// gemini is Google's API: the path says which model, and whether to stream.
func gemini() dialect {
	return dialect{
		credential: func(header http.Header) string { return header.Get("X-Goog-Api-Key") },
		problem:    geminiProblem,
		asks: func(r *http.Request) (ask, bool) {
			model, call, _ := strings.Cut(r.PathValue("call"), ":")
			stream := call == "streamGenerateContent"
			return ask{Model: model, Stream: stream}, stream || call == "generateContent"
		},
		whole: func(a ask, text string) any { return geminiAnswer(a, text, "STOP") },
		begin: func(ask) []event { return nil },
		piece: func(a ask, text string) event { return event{data: geminiAnswer(a, text, nil)} },
		end:   func(a ask, _ int) []event { return []event{{data: geminiAnswer(a, "", "STOP")}} },
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

func geminiAnswer(a ask, text string, finish any) object {
	content := object{"role": "model", "parts": []object{{"text": text}}}
	candidate := object{"index": 0, "content": content}
	if finish != nil {
		candidate["finishReason"] = finish
	}
	return object{"candidates": []object{candidate}, "modelVersion": a.Model}
}
