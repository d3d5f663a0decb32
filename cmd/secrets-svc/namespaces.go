package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// keysetPath returns the keyset file of a namespace. The name must have been checked.
func keysetPath(folder, namespace string) string { return filepath.Join(folder, namespace+".json") }

// namespaces opens the sealer of a namespace at its first use. It never creates a keyset: if it created one by mistake,
// no backup could open what that keyset has sealed.
type namespaces struct {
	cfg *config
	log *slog.Logger

	mu      sync.Mutex
	sealers map[string]sealer.Sealer
	failing map[string]string // :: namespace → why it can't be opened; a cause is logged once
	closers lifecycle.Closers
}

// Sealer returns the sealer of a namespace, or sealer.ErrUnavailable if it can't be opened.
func (n *namespaces) Sealer(ctx context.Context, namespace string) (sealer.Sealer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := n.sealers[namespace]; found != nil {
		return found, nil
	}
	opened, err := n.cfg.openSealer(ctx, namespace, n.log, &n.closers)
	if err != nil {
		if text := err.Error(); text != n.failing[namespace] {
			n.failing[namespace] = text
			n.log.ErrorContext(ctx, "a namespace has no usable keyset: create one with \"secrets-svc keys create\", or restore a backup",
				slog.String("namespace", namespace), slog.String("error", text))
		}
		return nil, fmt.Errorf("%w: namespace %q has no keyset", sealer.ErrUnavailable, namespace)
	}
	delete(n.failing, namespace)
	n.sealers[namespace] = opened
	return opened, nil
}

// Close closes the sealers' connections.
func (n *namespaces) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closers.Close()
}

// isReadable reports whether the keys of a sealer can be used now. It reads a changed file again.
func isReadable(ctx context.Context, s sealer.Sealer) bool {
	if file, ok := s.(*local.Sealer); ok {
		return file.Check(ctx) == nil
	}
	_, err := s.KEKs(ctx)
	return err == nil
}

// collectTimeout bounds the wait of a scrape for key management services.
const collectTimeout = 3 * time.Second

var keysetReadable = prometheus.NewDesc("secrets_svc_keyset_readable",
	"1 while the namespace's keyset can be read. If a keyset file can't, the keys that were read before stay in use until a restart.",
	[]string{"namespace"}, nil)

// Describe implements prometheus.Collector.
func (n *namespaces) Describe(to chan<- *prometheus.Desc) { to <- keysetReadable }

// Collect implements prometheus.Collector.
func (n *namespaces) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout) // Collect gets no context
	defer cancel()
	n.mu.Lock()
	sealers := maps.Clone(n.sealers)
	n.mu.Unlock()
	for name, s := range sealers {
		readable := 0.0
		if isReadable(ctx, s) {
			readable = 1
		}
		to <- prometheus.MustNewConstMetric(keysetReadable, prometheus.GaugeValue, readable, name)
	}
}
