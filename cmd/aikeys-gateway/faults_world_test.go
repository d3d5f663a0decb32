package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// scene is a control plane with two keys that the provider accepts. The newest key serves.
type scene struct {
	*control

	provider      *gatewaytest.Provider
	older, newest string
	pace          time.Duration // of the planes' checkers; 0 is the usual one
}

// sqliteURL returns the URL of a database in a file.
func sqliteURL(t *testing.T) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "aikeys.db")
}

func newScene(t *testing.T, database string, replicas int) *scene {
	t.Helper()
	s := &scene{control: startControl(t, database, replicas), provider: gatewaytest.StartProvider(t, gatewaytest.WithoutRecords())}
	s.older, s.newest = s.add(false), s.add(false)
	return s
}

// add registers a key that the provider accepts, for the project or for alice.
func (s *scene) add(own bool) string {
	s.t.Helper()
	return s.owner(s.at(0)).register(s.t, s.secret(), own)
}

// secret creates a key at the provider.
func (s *scene) secret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	text := "sk-EXAMPLE-" + hex.EncodeToString(b[:])
	s.provider.Accept(text)
	return text
}

// link returns a link to all processes.
func (s *scene) link() *link {
	s.t.Helper()
	return newLink(s.t, s.addresses)
}

// plane starts a data plane behind a link, used by alice. It returns once the newest key serves there.
func (s *scene) plane(l *link, maxStale time.Duration) *plane {
	s.t.Helper()
	p := newPlane(s.t, planeOptions{
		name: fmt.Sprintf("max_stale %v", maxStale), provider: s.provider, control: l.url, edge: s.edge(), caller: s.alice,
		maxStale: maxStale, pace: s.pace,
	})
	p.awaitKey(s.newest)
	return p
}

// planes starts data planes, each behind a link of its own.
func (s *scene) planes(maxStale ...time.Duration) (links []*link, planes []*plane) {
	s.t.Helper()
	for _, m := range maxStale {
		links = append(links, s.link())
		planes = append(planes, s.plane(links[len(links)-1], m))
	}
	return links, planes
}
