package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeService is a service whose answers a test chooses.
type fakeService struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
}

// newFakeService starts a service. answer gets the request as its method and last path segment: "DELETE key", "GET whoami".
func newFakeService(t *testing.T, answer func(request string, w http.ResponseWriter, r *http.Request)) *fakeService {
	t.Helper()
	s := &fakeService{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := r.Method + " " + r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if strings.Contains(r.URL.Path, "/aikeys/") {
			request = r.Method + " key"
		}
		_, _ = io.Copy(io.Discard, r.Body) // the server notices that the client is gone only after the body
		s.mu.Lock()
		s.requests = append(s.requests, request)
		s.mu.Unlock()
		answer(request, w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *fakeService) requestsSoFar() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...)
}

// user returns a user with a session at the service.
func (s *fakeService) user(t *testing.T) *user {
	return newUserAt(t, s.URL, "ak_EXAMPLE_of_a_fake_service")
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document) // the client may have gone
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, status int, code, detail string) {
	writeJSON(w, status, map[string]any{
		"type": "/problems/x", "title": "x", "status": status, "detail": detail, "code": code, "request_id": "01M83VVAHQQW2E4R6T8Y0A1S3D",
	})
}

// keyDocument returns a key of the API.
func keyDocument(name string) map[string]any {
	return map[string]any{
		"id": sampleID, "customer_id": "acme", "project_id": "chat", "provider": "openai", "name": name, "display_suffix": "9f3c",
		"user_scope": false, "created_at": "2026-11-23T09:30:00.123456Z", "created_by": "alice", "state": "active",
	}
}

// receiptDocument returns a receipt for three data planes.
func receiptDocument(acknowledged int) map[string]any {
	r := map[string]any{
		"state": "complete", "revoked_at": "2026-11-23T09:30:00Z", "revoked_by": "alice", "data_planes": 3,
		"acknowledged": acknowledged, "slowest_ms": 10 * acknowledged,
	}
	if acknowledged < 3 {
		r["state"], r["complete_by"] = "pending", time.Now().UTC().Add(8*time.Second)
	}
	return map[string]any{"receipt": r}
}

// holdResponse waits as long as the request asks for, as the service does while a receipt is pending.
func holdResponse(r *http.Request) {
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		return
	}
	select {
	case <-r.Context().Done():
	case <-time.After(wait):
	}
}

func sessionDocument() map[string]any {
	return map[string]any{"customer_id": "acme", "project_id": "chat", "user_id": "alice", "role": "owner", "method": "api_key",
		"token_id": "01M83VVAHQQW2E4R6T8Y0A1S3D"}
}
