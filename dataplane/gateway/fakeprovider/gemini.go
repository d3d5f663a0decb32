package fakeprovider

import (
	"io"
	"net/http"
	"strconv"
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

// geminiOpenAI is OpenAI's API at Google, which refuses Google's own header.
func geminiOpenAI() dialect {
	api := openAI()
	api.credential = func(header http.Header) string {
		if header.Get("X-Goog-Api-Key") != "" {
			return ""
		}
		return bearer(header)
	}
	return api
}

// upload takes a file in two requests, as Google's resumable uploads do. The second request needs no credential: the id
// in its URL authorizes it. The answer to the first request contains this URL. A request with any other id is refused.
func (h *Handler) upload(w http.ResponseWriter, r *http.Request) {
	const id = "fake-upload-1"
	switch uploadID := r.URL.Query().Get("upload_id"); {
	case uploadID == "" && h.statusFor(gemini(), r) != http.StatusOK:
		gemini().refuse(w, h.statusFor(gemini(), r))
	case uploadID == "":
		w.Header().Set("X-Goog-Upload-Status", "active")
		w.Header().Set("X-Goog-Upload-Url", "http://"+r.Host+r.URL.Path+"?upload_id="+id)
		reply(w, http.StatusOK, object{})
	case uploadID != id:
		gemini().refuse(w, http.StatusNotFound)
	default:
		size, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			gemini().refuse(w, http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Goog-Upload-Status", "final")
		reply(w, http.StatusOK, object{"file": object{
			"name": "files/fake-1", "mimeType": "text/plain", "state": "ACTIVE", "sizeBytes": strconv.FormatInt(size, 10),
			"uri": "https://generativelanguage.googleapis.com/v1beta/files/fake-1",
		}})
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
