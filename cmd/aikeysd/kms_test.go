package main

import (
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

// openBao is one server for the tests of this package, which use keys of their own.
var openBao struct {
	sync.Mutex
	*vaulttest.Server
}

func startOpenBao(t *testing.T) *vaulttest.Server {
	t.Helper()
	openBao.Lock()
	defer openBao.Unlock()
	if openBao.Server == nil {
		var err error
		openBao.Server, err = vaulttest.Run()
		require.NoError(t, err)
	}
	return openBao.Server
}

func stopOpenBao() {
	if openBao.Server != nil {
		openBao.Stop()
	}
}

// runDataPlane runs a data plane, as a gateway does, until the test ends.
func (s *server) runDataPlane(token string) *dataplane.Resolver {
	s.t.Helper()
	plane, err := dataplane.New(dataplane.Config{ControlPlane: s.dataplane, Token: func() string { return token }})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- plane.Run(ctx) }()
	s.t.Cleanup(func() { cancel(); require.NoError(s.t, <-done) })
	return plane
}

// While the key management service hangs or fails, nothing waits for it for long, and what gateways have cached is served.
func TestKeyManagementServiceLost(t *testing.T) {
	t.Parallel()
	bao := vaulttest.Start(t) // its own: the test takes it away
	url, _ := bao.Sealer(t)
	environ := with(newEnviron(t), "AIKEYS_SEALER="+url)
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	s := startReady(t, environ)
	key := s.register(owner, "first")
	resolver := s.runDataPlane(plane)
	cached := func() error {
		found, err := resolver.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "alice", "openai"))
		if err == nil {
			require.Equal(t, key, found.ID)
		}
		return err
	}
	s.eventually("the gateway follows the events and has the key", func() bool { return resolver.Status().Connected && cached() == nil })

	released := make(chan struct{})
	bao.Intercept(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-released:
			case <-r.Context().Done():
			}
		})
	})
	var burst sync.WaitGroup
	for range 8 {
		burst.Go(func() {
			got, err := tryCall(client, http.MethodPost, s.dataplane+"/v1/fetch", plane, `{"key_id":"`+key+`"}`)
			assert.Equal(t, http.StatusServiceUnavailable, got.status, "%s %v", got.body, err)
		})
	}
	burst.Wait()
	for name, ask := range map[string]func() reply{
		"register": func() reply { return call(t, http.MethodPost, s.api+"/v1/aikeys", owner, registerBody("second")) },
		"fetch":    func() reply { return s.fetch(plane, key) },
	} {
		var got reply
		s.eventually(name+" is not sent to a service that hangs", func() bool {
			began := time.Now()
			got = ask()
			require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
			return time.Since(began) < time.Second
		})
		require.NotEmpty(t, got.header.Get("Retry-After"), name)
	}
	require.NoError(t, cached(), "the gateway serves on")
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/aikeys", owner).status)
	close(released)
	bao.Admit()
	s.eventually("a fetch", func() bool { return s.fetch(plane, key).status == http.StatusOK })
	revoked := call(t, http.MethodDelete, s.api+"/v1/aikeys/"+key, owner, "")
	require.Equal(t, http.StatusOK, revoked.status, revoked.body)
	s.eventually("the gateway drops the key", func() bool { return cached() != nil })
}

func TestServeWaitsForTheKeyManagementService(t *testing.T) {
	t.Parallel()
	bao := startOpenBao(t)
	key := bao.NewKey(t, nil)
	token, policy := bao.TokenFile(t, strings.ReplaceAll(vaulttest.Policy(t, key), `"update"`, `"create", "update"`), nil)
	environ := with(newEnviron(t), "AIKEYS_SEALER="+bao.URL(key, "token_file="+token))
	const says = "the token has the capability create on transit/encrypt/"
	got := aikeysd(t, environ, "check")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stdout, says)
	s := begin(t, environ, "serve")
	s.awaitLog(`"waiting_for":"the key management service's permission"`)
	require.Contains(t, s.stderr.String(), says)
	bao.Call(t, http.MethodPut, "sys/policies/acl/"+policy, map[string]any{"policy": vaulttest.Policy(t, key)})
	s.awaitLog(`"msg":"ready"`)
	require.Equal(t, exitOK, s.wait())
	require.Contains(t, mustAikeysd(t, environ, "check"), " opens this database")

	bao.Call(t, http.MethodPut, "sys/policies/acl/"+policy,
		map[string]any{"policy": strings.ReplaceAll(vaulttest.Policy(t, key), `"update"`, `"create", "update"`)})
	s = begin(t, environ, "serve")
	s.awaitLog(`"msg":"new secrets can't be sealed"`)
	require.Contains(t, s.stderr.String(), says)
	require.Equal(t, exitOK, s.wait(), "what was sealed opens")

	url, _ := bao.Sealer(t)
	wrong := begin(t, with(environ, "AIKEYS_SEALER="+url), "serve")
	require.Equal(t, exitFailure, wrong.end(), "another key is refused")
	require.Contains(t, wrong.stderr.String(), "is the key that belongs to ")
}

// All secrets move from the keyset file to OpenBao and back. Each job is killed once on its way, while a data plane fetches.
func TestSecretsMoveToOpenBaoAndBack(t *testing.T) {
	t.Parallel()
	require.NoError(t, buildPrograms())
	url, _ := startOpenBao(t).Sealer(t)
	i := install(t, newEnviron(t), 6)
	file := "local:" + i.keyset
	for _, move := range []struct{ from, to string }{{file, url}, {url, file}} {
		require.Equal(t, exitOK, i.wait())
		environ := with(i.environ, "AIKEYS_SEALER="+move.to, "AIKEYS_SEALER_OLD="+move.from)
		i.server = startReady(t, environ)
		ctx, cancel := context.WithCancel(t.Context())
		var fetches sync.WaitGroup
		fetches.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				got, err := tryCall(client, http.MethodPost, i.dataplane+"/v1/fetch", i.plane, `{"key_id":"`+i.ids[n%len(i.ids)]+`"}`)
				assert.Equal(t, http.StatusOK, got.status, "%s %v", got.body, err)
			}
		})
		t.Cleanup(cancel)
		job := exec.Command(filepath.Join(shared, "aikeysd"), "rewrap", "--rate", "5")
		job.Env = environ
		require.NoError(t, job.Start())
		i.eventually("a key has moved", func() bool {
			return !strings.Contains(mustAikeysd(t, environ, "check"), "enabled  0        6 ")
		})
		_ = job.Process.Kill() // unless it has ended
		_ = job.Wait()
		i.requireServes()
		require.Contains(t, mustAikeysd(t, environ, "rewrap"), "; all keys are, and the canary is, under")
		cancel()
		fetches.Wait()
		require.Equal(t, exitOK, i.wait())
		i.server = startReady(t, with(i.environ, "AIKEYS_SEALER="+move.to))
		i.requireServes()
	}
}
