package secrets_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestAuditLinePerOpen(t *testing.T) {
	s := start(t, options{})
	sealed := s.seal(s.marked())
	foreign := start(t, options{}).seal(s.marked())
	other := openRequest(sealed.Envelope)
	other.Binding.CustomerID = "globex"

	reply := s.open(sealed.Envelope)
	require.Equal(t, http.StatusOK, reply.StatusCode())
	require.Equal(t, map[string]any{
		"time": s.audited()[0]["time"], "level": "INFO", "msg": "open", "client": "tests", "namespace": "main",
		"customer_id": "acme", "project_id": "chat", "key_id": "byok_1", "provider": "openai", "version": 1.0,
		"kek_id": sealed.KekID, "outcome": "opened", "request_id": reply.HTTPResponse.Header.Get("X-Request-Id"),
	}, s.audited()[0])

	refused, err := s.client.OpenEnvelopeWithResponse(t.Context(), other)
	require.NoError(t, err)
	requireRefused(t, refused, http.StatusUnprocessableEntity, "does-not-open")
	requireRefused(t, s.open(foreign.Envelope), http.StatusUnprocessableEntity, "unknown-kek")
	requireRefused(t, s.open("AAAA"), http.StatusUnprocessableEntity, "malformed-envelope")
	var outcomes []string
	for _, line := range s.audited() {
		outcomes = append(outcomes, fmt.Sprint(line["customer_id"], " ", line["outcome"]))
	}
	require.Equal(t, []string{"acme opened", "globex does-not-open", "acme unknown-kek", "acme malformed-envelope"}, outcomes)
	require.Equal(t, foreign.KekID, s.audited()[2]["kek_id"])

	s.seal(s.marked())
	require.Len(t, s.audited(), 4, "nothing else is audited")
}

// faulty is an audit log whose writes can fail.
type faulty struct {
	buffer
	lost atomic.Bool
}

func (f *faulty) Write(line []byte) (int, error) {
	if f.lost.Load() {
		return 0, errLost
	}
	return f.buffer.Write(line)
}

func TestNoOpenWithoutAuditLine(t *testing.T) {
	audit := &faulty{}
	s := start(t, options{audit: audit})
	plain := s.marked()
	envelope := s.seal(plain).Envelope
	audit.lost.Store(true)
	requireRefused(t, s.open(envelope), http.StatusServiceUnavailable, "unavailable")
	requireRefused(t, s.open("AAAA"), http.StatusServiceUnavailable, "unavailable")
	require.Contains(t, s.log.String(), `"level":"ERROR"`)
	require.Contains(t, s.log.String(), "audit: lost")
	s.clients.set(clientsOf(t, `["seal"]`))
	requireRefused(t, s.open(envelope), http.StatusForbidden, "client-not-allowed")
	s.clients.set(clientsOf(t, everything))

	audit.lost.Store(false)
	s.requireOpens(envelope, plain)
	require.Contains(t, audit.String(), `"outcome":"opened"`)
}

func TestAuditIsCompleteUnderLoad(t *testing.T) {
	const callers, each = 16, 25
	s := start(t, options{})
	envelope := s.seal(s.marked()).Envelope
	var mu sync.Mutex
	answered := map[string]bool{} // by request id
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				reply, err := s.client.OpenEnvelopeWithResponse(context.Background(), openRequest(envelope))
				if err != nil || reply.StatusCode() != http.StatusOK {
					t.Error(err)
					return
				}
				mu.Lock()
				answered[reply.HTTPResponse.Header.Get("X-Request-Id")] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	lines := s.audited()
	require.Len(t, answered, callers*each)
	require.Len(t, lines, callers*each)
	for _, line := range lines {
		require.Equal(t, "opened", line["outcome"])
		delete(answered, fmt.Sprint(line["request_id"]))
	}
	require.Empty(t, answered)
}

// crashing is a sealer that panics with the secret it has opened.
type crashing struct{ sealer.Sealer }

func (c crashing) Open(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
	plain, err := c.Sealer.Open(ctx, b, envelope)
	if err != nil {
		return plain, err
	}
	panic(string(plain.Reveal()))
}

func TestPanicIsAuditedWithoutTheSecret(t *testing.T) {
	s := start(t, options{spaces: spaces{"main": crashing{sealertest.New(t)}}})
	requireRefused(t, s.open(s.seal(s.marked()).Envelope), http.StatusInternalServerError, "internal")
	require.Equal(t, "failed", s.audited()[0]["outcome"])
	require.Contains(t, s.log.String(), "crashing.Open", "where it happened")
}

// keeping is a sealer that keeps references to the secrets that pass through it.
type keeping struct {
	sealer.Sealer
	passed chan sealer.Secret
}

func (k keeping) Seal(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
	k.passed <- plain
	return k.Sealer.Seal(ctx, b, plain)
}

func (k keeping) Open(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
	plain, err := k.Sealer.Open(ctx, b, envelope)
	k.passed <- plain
	return plain, err
}

func TestSecretsAreWipedAfterTheResponse(t *testing.T) {
	passed := make(chan sealer.Secret, 2)
	s := start(t, options{spaces: spaces{"main": keeping{sealertest.New(t), passed}}})
	plain := s.marked()
	s.requireOpens(s.seal(plain).Envelope, plain)
	for range cap(passed) {
		one := <-passed
		require.Eventually(t, func() bool { return one.Len() == 0 }, patience, often)
	}
	require.Equal(t, 1, strings.Count(s.audit.String(), "\n"))
}
