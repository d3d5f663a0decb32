package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// traceCollector takes spans as an OpenTelemetry collector does.
type traceCollector struct {
	mu    sync.Mutex
	names []string
	raw   strings.Builder
}

func (c *traceCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	batch := &collector.ExportTraceServiceRequest{}
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, batch) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(body)
	for _, resource := range batch.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.names = append(c.names, span.GetName())
			}
		}
	}
}

// marker is in everything that the test sends and nobody may see.
const marker = "CANARY7f3aCANARY"

// sendMarkers makes requests of every kind that carry the marker wherever a caller can put it.
func sendMarkers(t *testing.T, s *server, token string) {
	t.Helper()
	secret := "sk-proj-" + marker + "-EXAMPLE-EXAMPLE-EXAMPLE"
	request := func(method, path, body string, header ...string) *http.Request {
		r, err := http.NewRequestWithContext(t.Context(), method, s.api+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("User-Agent", marker)
		r.Header.Set("Tracestate", "vendor="+marker)
		r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		return r
	}
	cases := map[int][]*http.Request{
		http.StatusCreated: {
			request(http.MethodPost, "/v1/aikeys", registerBody("first", secret), "Idempotency-Key", marker),
		},
		http.StatusBadRequest: {
			request(http.MethodPost, "/v1/aikeys", registerBody("second", secret+" ")),
			request(http.MethodPost, "/v1/aikeys", `{"provider":"openai","secret":"`+secret+`"}`),
			request(http.MethodPost, "/v1/aikeys", `{"`+marker+`":"`+secret+`"}`),
			request(http.MethodPost, "/v1/aikeys", `{"secret":"`+secret),
			request(http.MethodGet, "/v1/aikeys?"+marker+"="+marker, ""),
			request(http.MethodGet, "/v1/aikeys/"+marker, ""),
		},
		http.StatusConflict:             {request(http.MethodPost, "/v1/aikeys", registerBody("first", secret))},
		http.StatusUnsupportedMediaType: {request(http.MethodPost, "/v1/aikeys", "secret="+secret, "Content-Type", "text/"+marker)},
		http.StatusUnauthorized: {
			request(http.MethodGet, "/v1/whoami", "", "Authorization", "Bearer ak_"+marker),
			request(http.MethodGet, "/v1/whoami", "", "Authorization", marker),
		},
		http.StatusNotFound:         {request(http.MethodGet, "/"+marker, "")},
		http.StatusMethodNotAllowed: {request("PATCH", "/v1/aikeys", secret)},
		http.StatusOK:               {request(http.MethodGet, "/v1/aikeys", ""), request(http.MethodGet, "/v1/whoami", "")},
	}
	client := newClient()
	for _, status := range []int{201, 400, 409, 415, 401, 404, 405, 200} {
		for _, r := range cases[status] {
			response, err := client.Do(r)
			require.NoError(t, err)
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, status, response.StatusCode, "%s %s: %s", r.Method, r.URL, body)
			require.NotContains(t, string(body), marker)
		}
	}
	sendGarbage(t, s)
}

// sendGarbage sends what is no HTTP.
func sendGarbage(t *testing.T, s *server) {
	t.Helper()
	for _, address := range []string{s.api, s.ops} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		fmt.Fprintf(conn, "%s /%s HTTP/%s\r\n\r\n", marker, marker, marker)
		_, err = io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
}

func TestLogsMetricsAndTracesHoldNothingSecret(t *testing.T) {
	spans := &traceCollector{}
	collector := httptest.NewServer(spans)
	defer collector.Close()
	environ := with(newEnviron(t), "AIKEYS_LOG_LEVEL=debug", "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	sendMarkers(t, s, token)
	metrics := s.get(s.ops + "/metrics").body
	readiness := s.get(s.ops + "/readyz").body
	require.Equal(t, exitOK, s.wait())

	spans.mu.Lock()
	defer spans.mu.Unlock()
	for where, text := range map[string]string{
		"log": s.stderr.String(), "metrics": metrics, "readiness": readiness, "spans": spans.raw.String(), "standard output": s.stdout.String(),
	} {
		require.NotContains(t, text, marker, where)
		require.NotContains(t, text, strings.Split(token, "_")[2], where)
	}
	// They were written, or the above would hold for nothing.
	require.Contains(t, s.stderr.String(), `"operation":"registerKey"`)
	require.Contains(t, metrics, `aikeys_http_requests_total{listener="public",operation="registerKey",status="201"} 1`)
	require.Contains(t, metrics, `aikeys_session_lookups_total`)
	require.Contains(t, spans.names, "registerKey", "spans are named after the operation, and the last ones are sent at the end")
	require.Contains(t, spans.names, "whoAmI")
	require.Contains(t, spans.raw.String(), "aikeysd")
}

func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	s := &service{getenv: newProgram([]string{"OTEL_SERVICE_NAME=x"}, io.Discard, io.Discard).Getenv}
	require.NoError(t, s.openTraces(t.Context()))
	require.Nil(t, s.traces)
	require.Empty(t, s.closers)
}
