package aikeystest

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Evidence is the output of a service: its log at every level, its replies, its metrics (in Registry) and its spans. It is safe for
// concurrent use.
type Evidence struct {
	mu       sync.Mutex
	log      bytes.Buffer
	replies  bytes.Buffer
	hidden   []string
	Registry *prometheus.Registry
	spans    *tracetest.InMemoryExporter
}

// NewEvidence returns evidence that is searched for secrets when the test ends.
func NewEvidence(t testing.TB) *Evidence {
	e := &Evidence{Registry: prometheus.NewRegistry(), spans: tracetest.NewInMemoryExporter()}
	t.Cleanup(func() {
		for _, leak := range e.Leaks() {
			t.Errorf("aikeystest: %s", leak)
		}
	})
	return e
}

// Secret returns 32 new hexadecimal digits that the service must not output. A test sends them as a secret, or in any
// other input in which a caller could send a secret.
func (e *Evidence) Secret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read ends the program instead
	text := hex.EncodeToString(b[:])
	e.Hide(text)
	return text
}

// Secret is Evidence.Secret.
func (s *Service) Secret() string { return s.Evidence.Secret() }

// Hide adds a text of at least 16 bytes that the service must not output.
func (e *Evidence) Hide(secret string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hidden = append(e.hidden, secret)
}

// Leaks returns the places where hidden texts were output, whole or in part. It does not repeat the texts.
func (e *Evidence) Leaks() []string {
	places := map[string]string{"the log": e.Log(), "a reply": e.Replies(), "a metric": e.Metrics(), "a span": e.Spans()}
	e.mu.Lock()
	hidden := slices.Clone(e.hidden)
	e.mu.Unlock()
	var leaks []string
	for place, text := range places {
		for i, secret := range hidden {
			if form := FindIn([]byte(text), secret); form != "" {
				leaks = append(leaks, fmt.Sprintf("%s holds hidden text %d, %s", place, i, form))
			}
		}
	}
	return leaks
}

// FindIn returns the form, such as plain, hexadecimal or base64, in which data holds either half of a secret. It
// returns "" if data holds neither half.
func FindIn(data []byte, secret string) string {
	half := len(secret) / 2
	for _, form := range append(forms(secret[:half]), forms(secret[half:])...) {
		if bytes.Contains(data, []byte(form.text)) {
			return form.name
		}
	}
	return ""
}

// form is one way to write a text.
type form struct{ name, text string }

// forms returns the ways in which a text may be hidden in another.
func forms(text string) []form {
	digits, backwards := hex.EncodeToString([]byte(text)), []byte(text)
	slices.Reverse(backwards)
	found := []form{
		{"as it is", text}, {"in upper case", strings.ToUpper(text)},
		{"in hexadecimal", digits}, {"in hexadecimal", strings.ToUpper(digits)}, {"backwards", string(backwards)},
	}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// In the base64 of longer data, the text may begin at any of the three positions of a group. The groups at both
		// ends then also depend on the neighbouring data.
		for shift := range 3 {
			encoded := alphabet.EncodeToString([]byte(strings.Repeat(" ", shift) + text))
			found = append(found, form{"in base64", encoded[4 : len(encoded)-len(encoded)%4-4]})
		}
	}
	return found
}

// Log returns everything logged so far, one JSON object per line.
func (e *Evidence) Log() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.String()
}

// LogLine returns the only log line about a reply's request.
func (s *Service) LogLine(t testing.TB, r Reply) map[string]any {
	var found []map[string]any
	for text := range strings.Lines(s.Evidence.Log()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["request_id"] == r.Header.Get("X-Request-Id") {
			found = append(found, line)
		}
	}
	require.Len(t, found, 1)
	return found[0]
}

// Replies returns all replies so far, heads and bodies.
func (e *Evidence) Replies() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.replies.String()
}

// Metrics returns the metrics as a scraper sees them.
func (e *Evidence) Metrics() string {
	families, err := e.Registry.Gather()
	if err != nil {
		return err.Error()
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return err.Error()
		}
	}
	return text.String()
}

// Spans returns all spans so far with all their attributes.
func (e *Evidence) Spans() string {
	var text strings.Builder
	for _, span := range e.spans.GetSpans() {
		line, err := json.Marshal(span)
		if err != nil {
			return err.Error()
		}
		text.Write(append(line, '\n'))
	}
	return text.String()
}

// Keep adds a reply.
func (e *Evidence) Keep(resp *http.Response, body []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = resp.Header.Write(&e.replies) // a buffer never fails to write
	e.replies.Write(append(body, '\n'))
}

// Forget drops the evidence so far, for tests that send a lot.
func (e *Evidence) Forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log.Reset()
	e.replies.Reset()
	e.hidden = nil
	e.spans.Reset()
}

// Logger returns a log that becomes evidence.
func (e *Evidence) Logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(e, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write adds to the log.
func (e *Evidence) Write(line []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Write(line)
}
