package agentrouter

import (
	"net/http"
	"testing"
	"time"
)

func TestDelayBefore(t *testing.T) {
	for retry, milliseconds := range []int{250, 500, 1000, 2000, 4000, 4000, 4000} {
		bound := time.Duration(milliseconds) * time.Millisecond
		var least, most time.Duration = bound, 0
		for range 500 {
			d, ok := delayBefore(retry, http.Header{})
			if !ok || d < 0 || d >= bound {
				t.Fatalf("retry %d: %v, %v", retry, d, ok)
			}
			least, most = min(least, d), max(most, d)
		}
		if least > bound/4 || most < bound*3/4 {
			t.Fatalf("retry %d: from %v to %v is no full jitter", retry, least, most)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "7": 7 * time.Second, "30": 30 * time.Second} {
		d, ok := delayBefore(0, http.Header{"Retry-After": {text}})
		if !ok || d != want {
			t.Fatalf("%s: %v, %v", text, d, ok)
		}
	}
	if _, ok := delayBefore(0, http.Header{"Retry-After": {"31"}}); ok {
		t.Fatal("31 is waited for")
	}
	for _, text := range []string{"-1", "soon", "1.5", "Mon, 23 Nov 2026 09:30:00 GMT", "99999999999999999999"} {
		if d, ok := delayBefore(0, http.Header{"Retry-After": {text}}); !ok || d >= firstDelay {
			t.Fatalf("%s: %v, %v", text, d, ok)
		}
	}
}

func TestUUIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		seen[newUUID()] = true
	}
	if len(seen) != 1000 {
		t.Fatal("UUIDs come twice")
	}
}
