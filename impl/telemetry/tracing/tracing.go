// Package tracing exports spans by OTLP over HTTP if the standard OTEL_* variables name a collector. It holds no global
// state. It is separate from impl/telemetry so that secrets-svc, which has no traces, does not link the exporter.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The variables that say where to send spans
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter/). The exporter itself reads the others, such as
// OTEL_EXPORTER_OTLP_HEADERS, and the SDK reads OTEL_TRACES_SAMPLER.
const (
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	envTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"

	tracesPath = "/v1/traces"
	protocol   = "http/protobuf"
)

// Endpoint returns the URL to post spans to. It is empty if no variable names one.
func Endpoint(getenv func(name string) string) (string, error) {
	name, endpoint := envTracesEndpoint, getenv(envTracesEndpoint)
	if endpoint == "" {
		name, endpoint = envEndpoint, getenv(envEndpoint)
	}
	if endpoint == "" {
		return "", nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("%s must be an http:// or https:// URL", name)
	}
	for _, name := range []string{envProtocol, envTracesProtocol} {
		if p := getenv(name); p != "" && p != protocol {
			return "", fmt.Errorf("%s must be %s, the only supported protocol", name, protocol)
		}
	}
	if name == envEndpoint {
		u.Path = strings.TrimSuffix(u.Path, "/") + tracesPath
	}
	return u.String(), nil
}

// Config is what New needs. Everything is required.
type Config struct {
	// Endpoint is the URL that spans are posted to.
	Endpoint string
	// Service and Version name the sender.
	Service, Version string
	Log              *slog.Logger
}

// New returns a provider of tracers that has not connected yet. It sends spans in batches, in a goroutine that its Shutdown ends.
func New(ctx context.Context, cfg Config) (*sdktrace.TracerProvider, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(cfg.Endpoint))
	if err != nil {
		return nil, fmt.Errorf("trace exporter: %w", err)
	}
	return sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&reporting{SpanExporter: exporter, log: cfg.Log}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", cfg.Service), attribute.String("service.version", cfg.Version),
		)),
	), nil
}

// reporting keeps an exporter's errors from the SDK's global handler. In a series of failures, it logs only the first
// failure and the recovery, so that a collector that is down does not fill the log.
type reporting struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	failing atomic.Bool
}

// ExportSpans implements sdktrace.SpanExporter.
func (r *reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case errors.Is(err, context.Canceled): // the process is ending
	case err != nil && !r.failing.Swap(true):
		r.log.WarnContext(ctx, "traces are not exported", slog.String("error", err.Error()))
	case err == nil && r.failing.Swap(false):
		r.log.InfoContext(ctx, "traces are exported again")
	}
	return nil
}
