package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// keysetPath returns the keyset file of a namespace. The name must have been checked.
func keysetPath(folder, namespace string) string { return filepath.Join(folder, namespace+".json") }

// namespaces implements secrets.Namespaces with the local backend. A keyset is opened at its first use. It is never created
// here: what a keyset created by mistake has sealed, no backup opens.
type namespaces struct {
	folder string
	log    *slog.Logger

	mu      sync.Mutex
	sealers map[string]*local.Sealer
	failing map[string]string // :: namespace → why it can't be opened; a cause is logged once
}

func newNamespaces(folder string, log *slog.Logger) *namespaces {
	return &namespaces{folder: folder, log: log, sealers: map[string]*local.Sealer{}, failing: map[string]string{}}
}

// Sealer implements secrets.Namespaces.
func (n *namespaces) Sealer(ctx context.Context, namespace string) (sealer.Sealer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if found := n.sealers[namespace]; found != nil {
		return found, nil
	}
	opened, err := local.OpenWith(keysetPath(n.folder, namespace), local.Options{MustExist: true, Log: n.log})
	if err != nil {
		if text := err.Error(); text != n.failing[namespace] {
			n.failing[namespace] = text
			n.log.ErrorContext(ctx, "a namespace has no keyset that can be used: \"secrets-svc keys create\" makes one, a backup brings one back",
				slog.String("namespace", namespace), slog.String("error", text))
		}
		return nil, fmt.Errorf("%w: namespace %q has no keyset", sealer.ErrUnavailable, namespace)
	}
	delete(n.failing, namespace)
	n.sealers[namespace] = opened
	return opened, nil
}

// opened returns the sealers of the open namespaces.
func (n *namespaces) opened() map[string]*local.Sealer {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := make(map[string]*local.Sealer, len(n.sealers))
	for name, s := range n.sealers {
		found[name] = s
	}
	return found
}

var keysetReadable = prometheus.NewDesc("secrets_svc_keyset_readable",
	"1 while the namespace's keyset file can be read; at 0 the keys that were read before serve on, until a restart.",
	[]string{"namespace"}, nil)

// Describe implements prometheus.Collector.
func (n *namespaces) Describe(to chan<- *prometheus.Desc) { to <- keysetReadable }

// Collect implements prometheus.Collector.
func (n *namespaces) Collect(to chan<- prometheus.Metric) {
	for name, s := range n.opened() {
		readable := 1.0
		if s.Check(context.Background()) != nil { // Collect gets no context
			readable = 0
		}
		to <- prometheus.MustNewConstMetric(keysetReadable, prometheus.GaugeValue, readable, name)
	}
}
