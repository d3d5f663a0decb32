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

// keysetPath is the keyset file of a namespace, whose name has been checked.
func keysetPath(folder, namespace string) string { return filepath.Join(folder, namespace+".json") }

// namespaces implements secrets.Namespaces with the local backend. A keyset is opened when it is first asked for, and never
// made: one that is made by mistake would seal what no backup opens.
type namespaces struct {
	folder string
	log    *slog.Logger

	mu      sync.Mutex
	sealers map[string]*local.Sealer
	failing map[string]string // :: namespace → why it can't be opened, so that it is logged once
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

// opened returns the namespaces that are open.
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
		if s.Check(context.Background()) != nil { // a scrape has no context to offer
			readable = 0
		}
		to <- prometheus.MustNewConstMetric(keysetReadable, prometheus.GaugeValue, readable, name)
	}
}
