package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestPermissions(t *testing.T) {
	s := start(t, nil)
	envelope := s.seal(s.Secret()).Envelope
	for name, may := range map[string][]secrets.Permission{
		`["seal"]`: {secrets.Seal}, `["open"]`: {secrets.Open}, `["rewrap"]`: {secrets.Rewrap}, `["status"]`: {secrets.Status},
		`["rewrap", "status"]`: {secrets.Rewrap, secrets.Status}, everything: {secrets.Seal, secrets.Open, secrets.Rewrap, secrets.Status},
	} {
		t.Run(name, func(t *testing.T) {
			s.clients = clientsOf(t, "main", name)
			allowed := map[secrets.Permission]bool{}
			for _, permission := range may {
				allowed[permission] = true
			}
			for permission, operation := range operations(s, envelope) {
				reply, err := operation()
				require.NoError(t, err)
				if allowed[permission] {
					require.Equal(t, http.StatusOK, reply.StatusCode(), permission)
				} else {
					requireRefused(t, reply, http.StatusForbidden, "client-not-allowed")
				}
			}
		})
	}
}

func TestEveryOperationNeedsAPermission(t *testing.T) {
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	s := start(t, nil)
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			may := `["status"]`
			if path == "/v1/keks" {
				may = `["seal"]`
			}
			s.clients = clientsOf(t, "main", may)
			reply, err := s.RoundTrip(httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
			require.NoError(t, err)
			require.NoError(t, reply.Body.Close())
			require.Equal(t, http.StatusForbidden, reply.StatusCode, "%s %s", method, path)
		}
	}
}

func TestUnlistedClientIsRefused(t *testing.T) {
	s := start(t, nil)
	envelope := s.seal(s.Secret()).Envelope
	stranger := strconv.Itoa(os.Geteuid() + 1)
	list, err := secrets.ParseClients([]byte(
		`{"clients": [{"name": "other", "uids": [` + stranger + `], "namespace": "main", "may": ` + everything + `}]}`))
	require.NoError(t, err)
	s.clients = list
	for _, operation := range operations(s, envelope) {
		reply, err := operation()
		require.NoError(t, err)
		requireRefused(t, reply, http.StatusForbidden, "client-not-allowed")
	}
	require.Contains(t, s.Log(), `"source_ip":"uid:`+strconv.Itoa(os.Geteuid())+`"`, "the log tells who tried")
	last := s.audited()[len(s.audited())-1]
	require.Equal(t, "client-not-allowed", last["outcome"])
	require.Equal(t, []any{"uid:" + strconv.Itoa(os.Geteuid())}, last["peer"])
}

// A connection that is neither from unixsocket.WithPeers nor TLS with a client certificate has no identity, so every request is refused.
func TestConnectionWithoutIdentityIsRefused(t *testing.T) {
	require.Empty(t, secrets.Identities(t.Context()))
	s := start(t, nil)
	for path, method := range map[string]string{
		"/v1/keks": http.MethodGet, "/v1/seal": http.MethodPost, "/v1/open": http.MethodPost, "/v1/rewrap": http.MethodPost,
	} {
		recorder := httptest.NewRecorder()
		s.handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
		require.Equal(t, http.StatusForbidden, recorder.Code, path)
	}
}

const sealBody = `{"binding": {"customer_id": "acme", "project_id": "chat", "key_id": "k", "provider": "openai", "version": 1}, "secret": %q}`

// unread is a body that can't be read. If a handler reads it, the response has another status than if the request is
// refused before the body is read.
var unread = iotest.ErrReader(errors.New("the body was read"))

func TestBodies(t *testing.T) {
	s := start(t, nil)
	for name, tc := range map[string]struct {
		body   io.Reader
		status int
		says   string
	}{
		"sealed":         {strings.NewReader(fmt.Sprintf(sealBody, "c2VjcmV0")), http.StatusOK, ""},
		"over the limit": {strings.NewReader(fmt.Sprintf(sealBody, strings.Repeat("a", 1<<20))), http.StatusRequestEntityTooLarge, "The body is over the limit of 1 MiB."},
		"truncated":      {io.MultiReader(strings.NewReader(`{"secret": "abcd`), iotest.ErrReader(io.ErrUnexpectedEOF)), http.StatusBadRequest, "did not come whole"},
		"empty":          {strings.NewReader(""), http.StatusBadRequest, "is empty"},
		"a long secret":  {strings.NewReader(fmt.Sprintf(sealBody, strings.Repeat("a", 87_385))), http.StatusBadRequest, "must have at most 87384 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := s.post(t.Context(), t, "/v1/seal", tc.body)
			require.Equal(t, tc.status, status)
			require.Contains(t, answer, tc.says)
		})
	}
	t.Run("of a client that may not seal", func(t *testing.T) {
		s.clients = clientsOf(t, "main", `["status"]`)
		status, _ := s.post(t.Context(), t, "/v1/seal", unread)
		require.Equal(t, http.StatusForbidden, status)
	})
}

// A body of unknown length counts as 1 MiB, the maximum. All clients together get 64 MiB, and each client gets at most
// 16 MiB.
func TestLongBodiesTakeBoundedMemory(t *testing.T) {
	const clients, most = 4, 16
	s := start(t, func(cfg *secrets.Config) { cfg.MaxConcurrent = 2 * clients * most })
	entries := make([]string, clients+1)
	for i := range entries {
		entries[i] = fmt.Sprintf(`{"name": "client-%d", "uids": [%d], "namespace": "main", "may": ["seal"]}`, i, i)
	}
	list, err := secrets.ParseClients([]byte(`{"clients": [` + strings.Join(entries, ",") + `]}`))
	require.NoError(t, err)
	s.clients = list
	postAs := func(uid int, body io.Reader) int {
		status, _ := s.post(secrets.ConnContext(t.Context(), peerConn{uid: uid}), t, "/v1/seal", body)
		return status
	}
	short := func() io.Reader { return strings.NewReader(fmt.Sprintf(sealBody, "c2VjcmV0")) }
	long := func() io.Reader { return io.MultiReader(short()) }

	var posted sync.WaitGroup
	var ends []*io.PipeWriter
	codes := make(chan int, clients*most)
	for client := range clients {
		require.Equal(t, http.StatusOK, postAs(client, long()), "the others have left this client its share")
		for range most {
			body, end := io.Pipe()
			ends = append(ends, end)
			posted.Go(func() { codes <- postAs(client, body) })
			_, err := end.Write([]byte("{")) // returns once it is being read
			require.NoError(t, err)
		}
		require.Equal(t, http.StatusServiceUnavailable, postAs(client, unread), "its share is used up")
	}
	require.Equal(t, http.StatusServiceUnavailable, postAs(clients, unread), "and so is all the room")
	require.Equal(t, http.StatusOK, postAs(clients, short()), "a short one needs no room")
	for _, end := range ends {
		require.NoError(t, end.Close())
	}
	posted.Wait()
	for range clients * most {
		require.Equal(t, http.StatusBadRequest, <-codes)
	}
	for client := range clients + 1 {
		require.Equal(t, http.StatusOK, postAs(client, long()), "the room is free again")
	}
}

// patience is longer than any step of a test on a busy machine.
const patience, often = 20 * time.Second, 5 * time.Millisecond

// requireGauges waits until the gauges show these numbers of working and queued operations.
func (s *service) requireGauges(working, queued float64) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		gathered, err := s.Registry.Gather()
		require.NoError(s.t, err)
		found := map[string]float64{}
		for _, family := range gathered {
			found[family.GetName()] = family.GetMetric()[0].GetGauge().GetValue()
		}
		return found["secrets_svc_operations_in_flight"] == working && found["secrets_svc_queue_length"] == queued
	}, patience, often)
}

func TestOverloadIsRefusedAtOnce(t *testing.T) {
	const callers, atWork, queue = 200, 4, 16
	backend, release := sealertest.New(t), make(chan struct{})
	var atOnce, most atomic.Int64
	s := start(t, func(cfg *secrets.Config) {
		over(sealertest.Fake{Sealer: backend, SealFunc: func(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
			now := atOnce.Add(1)
			defer atOnce.Add(-1)
			for before := most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
			}
			<-release
			return backend.Seal(ctx, b, plain)
		}})(cfg)
		cfg.MaxConcurrent, cfg.MaxQueue = atWork, queue
	})
	var served, sentAway atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			reply, err := s.client.SealSecretWithResponse(context.Background(), sealRequest("sk-0123456789"))
			switch {
			case err != nil:
				t.Error(err)
			case reply.StatusCode() == http.StatusOK:
				served.Add(1)
			case reply.StatusCode() == http.StatusServiceUnavailable && reply.HTTPResponse.Header.Get("Retry-After") == "1":
				sentAway.Add(1)
			default:
				t.Errorf("status %d", reply.StatusCode())
			}
		})
	}
	// While all running seals are blocked, requests beyond the queue's limit are refused at once.
	require.Eventually(t, func() bool { return sentAway.Load() == callers-atWork-queue }, patience, often)
	require.Zero(t, served.Load())
	s.requireGauges(atWork, queue)
	close(release)
	wg.Wait()
	require.EqualValues(t, atWork+queue, served.Load())
	require.EqualValues(t, atWork, most.Load())
	require.Contains(t, s.Log(), `"status":503`)
	s.seal(s.Secret()) // the service works again
}

func TestCanceledRequestLeavesTheQueue(t *testing.T) {
	backend, began := sealertest.New(t), make(chan struct{}, 2)
	s := start(t, func(cfg *secrets.Config) {
		over(sealertest.Fake{Sealer: backend, SealFunc: func(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
			began <- struct{}{}
			if len(began) == 1 {
				<-ctx.Done()
			}
			return backend.Seal(ctx, b, plain)
		}})(cfg)
		cfg.MaxConcurrent, cfg.MaxQueue = 1, 1
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			reply, err := s.client.SealSecretWithResponse(ctx, sealRequest("sk-0123456789"))
			if err == nil && reply.StatusCode() == http.StatusOK {
				t.Error("sealed")
			}
		})
	}
	s.requireGauges(1, 1)
	cancel()
	wg.Wait()
	s.requireGauges(0, 0)
	require.Len(t, began, 1, "the request in the queue was not worked on")
	s.seal(s.Secret())
}
