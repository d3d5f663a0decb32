package aikeys_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func requireUnavailable(t *testing.T, reply aikeystest.Reply) {
	t.Helper()
	require.Equal(t, http.StatusServiceUnavailable, reply.Status)
	require.Equal(t, "unavailable", reply.Problem(t).Code)
	require.NotEmpty(t, reply.Header.Get("Retry-After"))
}

func TestSealingUnavailable(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		backend, ok := s.Sealer.(*sealertest.Unavailable)
		require.True(t, ok)
		body, token := s.Shared("n"), s.As(owner).Token
		requireUnavailable(t, post(t, s, owner, project+"/aikeys", body))
		requireUnavailable(t, retry(t, s, token, "k", body))
		require.Empty(t, list(t, s, owner))
		require.Empty(t, events(t, s, owner))
		setPolicy(t, s, map[string]any{})

		backend.SetAvailable(true)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		key := list(t, s, owner)[0]
		backend.SetAvailable(false)
		requireUnavailable(t, retry(t, s, token, "k", body))
		require.Equal(t, key.ID, resolve(t, s, member, "openai").Key.ID)
		s.As(owner).RevokeKey(t, key.ID)
	}, func(t *testing.T, o *aikeystest.Options) {
		o.Sealer = sealertest.NewUnavailable(secretstest.Backend(t))
	})
}

// statusOf returns a reply's status, 0 where there is none.
func statusOf(reply interface{ StatusCode() int }, err error) int {
	if err != nil {
		return 0
	}
	return reply.StatusCode()
}

func TestNotReady(t *testing.T) {
	var ready atomic.Bool
	s := aikeystest.Start(t, aikeystest.Options{Ready: ready.Load})
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			requireUnavailable(t, s.Send(t, o.Request)) // whatever the credential
			o.Token = s.As(owner).Token
			requireUnavailable(t, s.Send(t, o.Request))
		})
	}
	ready.Store(true)
	require.Empty(t, list(t, s, owner))
	require.Empty(t, events(t, s, owner))
}

// Such a service is not let start; were it to, a fingerprint of another keyset's would tell a retry from a reuse wrongly.
func TestSealingRetryWithAnotherKeyset(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, "k", body).Status)
		wrong := aikeystest.Start(t, aikeystest.Options{Store: s.Store})
		for _, key := range []string{"k", "another"} {
			reply := retry(t, wrong, s.As(owner).Token, key, body)
			require.Equal(t, http.StatusInternalServerError, reply.Status)
			lines := wrong.Evidence.Lines(reply.Header.Get("X-Request-Id"))
			require.Len(t, lines, 1)
			require.Contains(t, lines[0]["error"], "keyset")
		}
		require.Len(t, list(t, s, owner), 1)
	})
}

// crashing is a sealer that panics with whatever it knows.
type crashing struct {
	sealer.Sealer
	what any
}

func (c crashing) Seal(context.Context, sealer.Binding, sealer.Secret) (sealer.Envelope, error) {
	panic(c.what)
}

func TestPanic(t *testing.T) {
	const text = "text-that-was-panicked-with"
	for name, what := range map[string]any{"a text": text, "an error": fmt.Errorf("oops: %s", text), "a struct": struct{ S string }{text}} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *aikeystest.Service) {
				s.Evidence.Hide(text)
				reply := post(t, s, owner, project+"/aikeys", s.Shared("n"))
				require.Equal(t, http.StatusInternalServerError, reply.Status)
				require.Equal(t, "internal", reply.Problem(t).Code)
				require.Empty(t, reply.Problem(t).Errors)
				lines := s.Evidence.Lines(reply.Header.Get("X-Request-Id"))
				require.Len(t, lines, 1)
				require.Equal(t, "ERROR", lines[0]["level"])
				require.Contains(t, lines[0]["stack"], "crashing.Seal", "where it happened")
				require.Empty(t, list(t, s, owner), "and the service goes on")
			}, func(t *testing.T, o *aikeystest.Options) { o.Sealer = crashing{secretstest.Backend(t), what} })
		})
	}
}

// stuck is a sealer that waits until its caller gives up.
type stuck struct {
	sealer.Sealer
	entered chan struct{}
}

func (s stuck) Seal(ctx context.Context, _ sealer.Binding, _ sealer.Secret) (sealer.Envelope, error) {
	s.entered <- struct{}{}
	<-ctx.Done()
	return sealer.Envelope{}, fmt.Errorf("seal: %w", ctx.Err())
}

func TestSealingClientDisconnects(t *testing.T) {
	modelstest.Postgres(t) // its cluster outlives the test
	before := goleak.IgnoreCurrent()
	t.Run("service", func(t *testing.T) {
		each(t, func(t *testing.T, s *aikeystest.Service) {
			backend, ok := s.Sealer.(stuck)
			require.True(t, ok)
			const clients = 20
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			owners := s.As(owner)
			require.Empty(t, list(t, s, owner))
			var wg sync.WaitGroup
			for i := range clients {
				wg.Go(func() {
					_, err := owners.RegisterKeyWithResponse(ctx, self, self, nil, s.Shared(strconv.Itoa(i)))
					if err == nil {
						t.Error("answered")
					}
				})
			}
			for range clients {
				<-backend.entered
			}
			leave()
			wg.Wait()
			require.Eventually(t, func() bool { return len(ends(s, "registerKey")) == clients }, 5*time.Second, 5*time.Millisecond)
			require.Equal(t, slices.Repeat([]end{{"INFO", 499}}, clients), ends(s, "registerKey"), "nothing of ours failed")
			require.Empty(t, list(t, s, owner))
		}, func(t *testing.T, o *aikeystest.Options) {
			o.Sealer = stuck{secretstest.Backend(t), make(chan struct{})}
		})
	})
	goleak.VerifyNone(t, before)
}

// end is how the log tells of a request's end.
type end struct {
	level  string
	status int
}

// ends returns what the log tells of an operation's requests.
func ends(s *aikeystest.Service, operation string) []end {
	var found []end
	for text := range strings.Lines(s.Evidence.Log()) {
		var line struct {
			Level, Operation string
			Status           int
		}
		if json.Unmarshal([]byte(text), &line) == nil && line.Operation == operation {
			found = append(found, end{line.Level, line.Status})
		}
	}
	return found
}
