package secrets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestAuditLinePerOpen(t *testing.T) {
	s := start(t, nil)
	sealed := s.seal(s.Secret())
	foreign := start(t, nil).seal(s.Secret())
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

	s.seal(s.Secret())
	require.Len(t, s.audited(), 4, "nothing else is audited")
}

// writerFunc is a writer by its Write.
type writerFunc func(line []byte) (int, error)

func (f writerFunc) Write(line []byte) (int, error) { return f(line) }

func TestNoOpenWithoutAuditLine(t *testing.T) {
	var audit bytes.Buffer
	lost := false
	s := start(t, func(cfg *secrets.Config) {
		cfg.Audit = secrets.NewAudit(writerFunc(func(line []byte) (int, error) {
			if lost {
				return 0, errors.New("lost")
			}
			return audit.Write(line)
		}))
	})
	plain := s.Secret()
	envelope := s.seal(plain).Envelope
	lost = true
	requireRefused(t, s.open(envelope), http.StatusServiceUnavailable, "unavailable")
	requireRefused(t, s.open("AAAA"), http.StatusServiceUnavailable, "unavailable")
	require.Contains(t, s.Log(), `"level":"ERROR"`)
	require.Contains(t, s.Log(), "audit: lost")
	s.clients = clientsOf(t, "main", `["seal"]`)
	requireRefused(t, s.open(envelope), http.StatusForbidden, "client-not-allowed")
	s.clients = clientsOf(t, "main", everything)

	lost = false
	s.requireOpens(envelope, plain)
	require.Contains(t, audit.String(), `"outcome":"opened"`)
}

func TestAuditCountsRepeatedRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := make(chan string, 8)
		audit := secrets.NewAudit(writerFunc(func(line []byte) (int, error) {
			written <- string(line)
			return len(line), nil
		}))
		s := start(t, func(cfg *secrets.Config) { cfg.Audit = audit })
		s.clients = clientsOf(t, "main", `["seal"]`)
		refuse := func(times int) {
			for range times {
				requireRefused(t, s.open("AAAA"), http.StatusForbidden, "client-not-allowed")
			}
		}
		refuse(100)
		require.NotContains(t, <-written, "repeated")
		require.Empty(t, written)

		time.Sleep(time.Minute)
		line := <-written
		require.Contains(t, line, `"outcome":"client-not-allowed","repeated":99,"first_at":`)
		require.Contains(t, line, `"peer":["`)

		refuse(2)
		require.Empty(t, written)
		require.NoError(t, audit.Close())
		require.Contains(t, <-written, `"repeated":2`)
	})
}

func TestAuditIsCompleteUnderLoad(t *testing.T) {
	const callers, each = 16, 25
	s := start(t, nil)
	envelope := s.seal(s.Secret()).Envelope
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

func TestPanicIsAuditedWithoutTheSecret(t *testing.T) {
	backend := sealertest.New(t)
	s := start(t, over(sealertest.Fake{Sealer: backend, OpenFunc: func(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
		plain, err := backend.Open(ctx, b, envelope)
		require.NoError(t, err)
		panic(string(plain.Reveal()))
	}}))
	requireRefused(t, s.open(s.seal(s.Secret()).Envelope), http.StatusInternalServerError, "internal")
	require.Equal(t, "failed", s.audited()[0]["outcome"])
	require.Contains(t, s.Log(), "sealertest.Fake.Open", "where it happened")
}

func TestSecretsAreWipedAfterTheResponse(t *testing.T) {
	backend := sealertest.New(t)
	var passed []sealer.Secret
	s := start(t, over(sealertest.Fake{
		Sealer: backend,
		SealFunc: func(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
			passed = append(passed, plain)
			return backend.Seal(ctx, b, plain)
		},
		OpenFunc: func(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
			plain, err := backend.Open(ctx, b, envelope)
			passed = append(passed, plain)
			return plain, err
		},
	}))
	plain := s.Secret()
	s.requireOpens(s.seal(plain).Envelope, plain)
	require.Len(t, passed, 2)
	for _, secret := range passed {
		require.Zero(t, secret.Len())
	}
	require.Equal(t, 1, strings.Count(s.audit.String(), "\n"))
}
