package tracing

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

func TestEndpoint(t *testing.T) {
	const general, traces, protocol = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
	cases := map[string]struct {
		env            map[string]string
		endpoint, fail string
	}{
		"none":                                  {},
		"the general one gets the path":         {env: map[string]string{general: "http://c:4318"}, endpoint: "http://c:4318/v1/traces"},
		"a path of its own is kept":             {env: map[string]string{general: "https://c/otlp/"}, endpoint: "https://c/otlp/v1/traces"},
		"the one for traces is taken as it is":  {env: map[string]string{traces: "http://c/in"}, endpoint: "http://c/in"},
		"the one for traces wins":               {env: map[string]string{general: "http://a", traces: "http://b/"}, endpoint: "http://b/"},
		"the supported protocol":                {env: map[string]string{traces: "http://b/", protocol: "http/protobuf"}, endpoint: "http://b/"},
		"another protocol is refused":           {env: map[string]string{general: "http://c", protocol: "grpc"}, fail: protocol},
		"a host without a scheme is refused":    {env: map[string]string{general: "c:4318"}, fail: general},
		"what is no URL is refused, not quoted": {env: map[string]string{traces: "http://\x7f"}, fail: traces + " must be"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			endpoint, err := Endpoint(func(name string) string { return tc.env[name] })
			if tc.fail != "" {
				require.ErrorContains(t, err, tc.fail)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.endpoint, endpoint)
		})
	}
}

func newProvider(t *testing.T, endpoint string, log io.Writer) *sdktrace.TracerProvider {
	provider, err := New(t.Context(), Config{
		Endpoint: endpoint, Service: "aikeysd", Version: "v1.2.3", Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	return provider
}

func TestShutdown(t *testing.T) {
	received := make(chan *collector.ExportTraceServiceRequest, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		batch := &collector.ExportTraceServiceRequest{}
		_ = proto.Unmarshal(body, batch)
		received <- batch
	}))
	defer server.Close()
	provider := newProvider(t, server.URL+"/v1/traces", io.Discard)
	_, span := provider.Tracer("test").Start(t.Context(), "registerKey")
	span.End()
	require.NoError(t, provider.Shutdown(t.Context()))

	batch := <-received
	require.Len(t, batch.GetResourceSpans(), 1)
	require.Equal(t, "registerKey", batch.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0].GetName())
	attributes := map[string]string{}
	for _, attribute := range batch.GetResourceSpans()[0].GetResource().GetAttributes() {
		attributes[attribute.GetKey()] = attribute.GetValue().GetStringValue()
	}
	require.Equal(t, "aikeysd", attributes["service.name"])
	require.Equal(t, "v1.2.3", attributes["service.version"])
}

func TestCollectorFailureIsLoggedOnce(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusBadRequest)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))
	defer server.Close()
	var log bytes.Buffer
	provider := newProvider(t, server.URL, &log)
	send := func() {
		_, span := provider.Tracer("test").Start(t.Context(), "listKeys")
		span.End()
		require.NoError(t, provider.ForceFlush(t.Context()))
	}
	send()
	send()
	status.Store(http.StatusOK)
	send()
	send()
	require.NoError(t, provider.Shutdown(t.Context()))
	require.Equal(t, 1, strings.Count(log.String(), "traces are not exported"))
	require.Equal(t, 1, strings.Count(log.String(), "traces are exported again"))
}
