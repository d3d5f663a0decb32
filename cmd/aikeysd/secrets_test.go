package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer/local"
)

// TestSecretsServiceOfItsOwn runs the program with its keyset in another process, built once for all of this.
func TestSecretsServiceOfItsOwn(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "secrets-svc")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../secrets-svc")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	for name, test := range map[string]func(t *testing.T, binary string){
		"what does not need it goes on without it, and the rest comes back by itself": testLossUnderLoad,
		"a start waits for it, and refuses another one's":                             testComesLater,
		"a start waits for its permission":                                            testPermission,
		"check asks it":                                                               testCheck,
		"an old sealer opens what was sealed before it":                               testOldSealer,
		"it tells its client by a certificate":                                        testMutualTLS,
		"the script behind make run-split starts and ends both":                       testRunSplit,
		"secrets move to it and are re-wrapped there by who may not open":             testRewrapToService,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for processes, more than they work
			test(t, binary)
		})
	}
}

// secretsService is a secrets-svc as a process of its own, which a test may kill, stop and start again.
type secretsService struct {
	t           *testing.T
	binary, dir string
	cmd         *exec.Cmd
	stderr      *buffer
}

// newSecretsService gives the program a keyset and one client, the user of this process. It does not run yet.
func newSecretsService(t *testing.T, binary, may string) *secretsService {
	t.Helper()
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // a socket's path has 108 bytes at the most
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	s := &secretsService{t: t, binary: binary, dir: dir, stderr: &buffer{}}
	_, err = local.AddKEK(filepath.Join(dir, "main.json"))
	require.NoError(t, err)
	s.allow(may)
	return s
}

// allow replaces the clients file; the service notices.
func (s *secretsService) allow(may string) {
	s.t.Helper()
	text := fmt.Sprintf("clients: [{name: aikeysd, uids: [%d], namespace: main, may: [%s]}]\n", os.Geteuid(), may)
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "next.yaml"), []byte(text), 0o600))
	require.NoError(s.t, os.Rename(filepath.Join(s.dir, "next.yaml"), filepath.Join(s.dir, "clients.yaml")))
}

const everything = "seal, open, rewrap, status"

func (s *secretsService) socket() string { return filepath.Join(s.dir, "api.sock") }

// start starts the process. It does not wait for it: those who need it do.
func (s *secretsService) start() *secretsService { return s.startOn("unix:" + s.socket()) }

// kill ends the process as a crash does.
func (s *secretsService) kill() {
	_ = s.cmd.Process.Kill() // unless it has ended
	_ = s.cmd.Wait()
}

func (s *secretsService) signal(signal syscall.Signal) {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(signal))
}

// environ returns the variables of an aikeysd that seals with the service.
func (s *secretsService) environ() []string {
	s.t.Helper()
	return with(newLocalEnviron(s.t), "AIKEYS_SEALER=secrets+unix:"+s.socket())
}

// world is an aikeysd without limits on requests, with a user and a data plane, before a secrets service.
type world struct {
	*server
	service       *secretsService
	token, plane  string
	key           string // registered and fetched once
	registrations atomic.Int64
}

func newWorld(t *testing.T, binary string) *world {
	t.Helper()
	service := newSecretsService(t, binary, everything).start()
	environ := with(service.environ(), "AIKEYS_RATE_LIMIT=0")
	w := &world{service: service, token: newOwner(t, environ)}
	w.plane = strings.TrimSpace(mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge", "--customer", "acme"))
	w.server = startReady(t, environ)
	reply := w.register()
	require.Equal(t, http.StatusCreated, reply.status, reply.body)
	_, id, _ := strings.Cut(reply.body, `"id":"`)
	w.key, _, _ = strings.Cut(id, `"`)
	require.Equal(t, http.StatusOK, w.fetch().status)
	return w
}

func (w *world) call(method, url, token, body string) reply {
	got, err := tryCall(context.WithoutCancel(w.t.Context()), newClient(), method, url, token, body)
	if err != nil {
		return reply{body: err.Error()} // no status: the tests take none for an answer
	}
	return got
}

func (w *world) register() reply {
	w.t.Helper()
	name := fmt.Sprintf("key-%d", w.registrations.Add(1))
	return w.call(http.MethodPost, w.api+"/v1/aikeys", w.token, registerBody(name, fakeSecret))
}

func (w *world) fetch() reply {
	w.t.Helper()
	return w.call(http.MethodPost, w.dataplane+"/v1/fetch", w.plane, `{"key_id":"`+w.key+`"}`)
}

func (w *world) list() reply { return w.call(http.MethodGet, w.api+"/v1/aikeys", w.token, "") }

func (w *world) readiness() reply { return w.call(http.MethodGet, w.ops+"/readyz", "", "") }

// requireDegraded requires that all works but what needs the secrets service, and that this is told.
func (w *world) requireDegraded() {
	w.t.Helper()
	for name, call := range map[string]func() reply{"register": w.register, "fetch": w.fetch} {
		got := call()
		require.Equal(w.t, http.StatusServiceUnavailable, got.status, "%s: %s", name, got.body)
		require.NotEmpty(w.t, got.header.Get("Retry-After"), name)
		require.Contains(w.t, got.body, `"code":"unavailable"`)
	}
	require.Equal(w.t, http.StatusOK, w.list().status)
	require.Equal(w.t, http.StatusOK, w.call(http.MethodGet, w.api+"/v1/aikeys/"+w.key, w.token, "").status)
	require.Equal(w.t, http.StatusOK, w.call(http.MethodGet, w.api+"/v1/customers/-/projects/-/events", w.token, "").status)
	w.eventually("readiness tells which check", func() bool { return strings.Contains(w.readiness().body, `"keyset":"unavailable"`) })
	require.Equal(w.t, http.StatusOK, w.readiness().status, "balancers go on sending what still works")
}

// load calls until it is stopped or the test ends, and returns how often each answer came.
func (w *world) load(call func() reply) (stop func() map[int]int) {
	const callers = 3
	var (
		mu      sync.Mutex
		group   sync.WaitGroup
		answers = map[int]int{}
		done    = make(chan struct{})
	)
	for range callers {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				status := call().status
				mu.Lock()
				answers[status]++
				mu.Unlock()
			}
		})
	}
	stop = sync.OnceValue(func() map[int]int {
		close(done)
		group.Wait()
		return answers
	})
	w.t.Cleanup(func() { stop() })
	return stop
}

func testLossUnderLoad(t *testing.T, binary string) {
	cases := map[string]struct{ lose, restore func(s *secretsService) }{
		"killed": {
			func(s *secretsService) { s.kill() },
			func(s *secretsService) { s.start() },
		},
		"hanging": {
			func(s *secretsService) { s.signal(syscall.SIGSTOP) },
			func(s *secretsService) { s.signal(syscall.SIGCONT) },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, binary)
			registers, fetches, lists := w.load(w.register), w.load(w.fetch), w.load(w.list)
			tc.lose(w.service)
			w.requireDegraded()
			revoked := w.call(http.MethodDelete, w.api+"/v1/aikeys/"+w.key, w.token, "")
			require.Equal(t, http.StatusOK, revoked.status, "a leaked key can be revoked: %s", revoked.body)
			listed := lists()
			require.Len(t, listed, 1, "lists never failed: %v", listed)
			require.NotZero(t, listed[http.StatusOK])

			tc.restore(w.service)
			w.eventually("a register", func() bool { return w.register().status == http.StatusCreated })
			w.eventually("readiness", func() bool { return strings.Contains(w.readiness().body, `"keyset":"ok"`) })
			for what, answers := range map[string]map[int]int{"registers": registers(), "fetches": fetches()} {
				for status := range answers {
					require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusForbidden, http.StatusServiceUnavailable}, status,
						"%s: %v", what, answers)
				}
				require.NotZero(t, answers[http.StatusServiceUnavailable], what)
			}
			require.Equal(t, exitOK, w.wait())
		})
	}
}

func testComesLater(t *testing.T, binary string) {
	service := newSecretsService(t, binary, everything)
	environ := service.environ()
	s := start(t, environ, "serve")
	s.eventually("it says what it waits for", func() bool { return strings.Contains(s.stderr.String(), `"waiting_for":"keyset"`) })
	unready := s.get(s.ops + "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, unready.status)
	require.JSONEq(t, `{"ready":false,"checks":{"service":"starting","database":"ok","schema":"ok","keyset":"pending"}}`, unready.body)
	require.Contains(t, s.stderr.String(), "check that secrets-svc runs at secrets+unix:")
	refused := s.get(s.api + "/v1/whoami")
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
	require.NotEmpty(t, refused.header.Get("Retry-After"))

	service.start()
	s.awaitReady()
	require.Equal(t, 1, strings.Count(s.stderr.String(), `"waiting_for":"keyset"`), "told once:\n%s", s.stderr)
	require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz").body)
	require.Equal(t, exitOK, s.wait())

	t.Run("a wrong one ends it", func(t *testing.T) {
		other := newSecretsService(t, binary, everything).start()
		wrong := start(t, with(environ, "AIKEYS_SEALER=secrets+unix:"+other.socket()), "serve")
		require.Equal(t, exitFailure, wrong.end())
		for _, says := range []string{
			"the sealer's keyset does not open this database", "check that AIKEYS_SEALER=secrets+unix:", "AIKEYS_SEALER_OLD",
			"nothing was changed in the database",
		} {
			require.Contains(t, wrong.stderr.String(), says)
		}
	})
}

func testPermission(t *testing.T, binary string) {
	service := newSecretsService(t, binary, "rewrap").start()
	s := start(t, service.environ(), "serve")
	s.eventually("it says so", func() bool { return strings.Contains(s.stderr.String(), `"waiting_for":"secrets-svc's permission"`) })
	require.Contains(t, s.stderr.String(), "secrets-svc does not allow this client to do that; its operator lists the clients")
	require.Equal(t, http.StatusServiceUnavailable, s.get(s.ops+"/readyz").status)
	service.allow(everything)
	s.awaitReady()
	require.Equal(t, exitOK, s.wait())
}

func testCheck(t *testing.T, binary string) {
	service := newSecretsService(t, binary, everything)
	environ := service.environ()
	mustAikeysd(t, environ, "migrate", "up")
	got := aikeysd(t, environ, "check")
	require.Equal(t, exitFailure, got.code)
	require.Regexp(t, `keyset +FAILED +.*check that secrets-svc runs at secrets\+unix:`, got.stdout)

	service.start()
	require.Eventually(t, func() bool { return aikeysd(t, environ, "check").code == exitOK }, patience, 20*time.Millisecond)
	require.Contains(t, mustAikeysd(t, environ, "check"), "bound to no keyset yet")
	require.Equal(t, exitOK, startReady(t, environ).wait())
	require.Regexp(t, `keyset +ok +secrets\+unix:.* opens this database`, mustAikeysd(t, environ, "check"))

	service.allow("seal, open")
	require.Eventually(t, func() bool {
		got := aikeysd(t, environ, "check")
		return got.code == exitFailure && strings.Contains(got.stdout, "does not allow this client")
	}, patience, 20*time.Millisecond)
}

// A small user grows: the keyset file of before opens what was sealed with it, and the service seals what is new.
func testOldSealer(t *testing.T, binary string) {
	service := newSecretsService(t, binary, everything).start()
	before := newLocalEnviron(t)
	token := newOwner(t, before)
	plane := strings.TrimSpace(mustAikeysd(t, before, "admin", "dataplane", "create", "--name", "edge", "--customer", "acme"))
	register := func(s *server, name string) (id string) {
		got := call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", token, registerBody(name, fakeSecret))
		require.Equal(t, http.StatusCreated, got.status, got.body)
		_, rest, _ := strings.Cut(got.body, `"id":"`)
		id, _, _ = strings.Cut(rest, `"`)
		return id
	}
	s := startReady(t, before)
	old := register(s, "old")
	require.Equal(t, exitOK, s.wait())

	_, keyset, _ := strings.Cut(before[3], "=")
	after := with(before, "AIKEYS_SEALER=secrets+unix:"+service.socket(), "AIKEYS_SEALER_OLD="+keyset)
	s = startReady(t, after)
	ids := []string{old, register(s, "new")}
	for _, id := range ids {
		got := call(t, newClient(), http.MethodPost, s.dataplane+"/v1/fetch", plane, `{"key_id":"`+id+`"}`)
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.Contains(t, got.body, fakeSecret)
	}
	require.Equal(t, exitOK, s.wait())
	audit, err := os.ReadFile(filepath.Join(service.dir, "audit.log"))
	require.NoError(t, err)
	require.Contains(t, string(audit), ids[1], "the service opened the new one")
	require.NotContains(t, string(audit), fakeSecret)

	t.Run("which must be there", func(t *testing.T) {
		got := aikeysd(t, with(after, "AIKEYS_SEALER_OLD=local:"+filepath.Join(t.TempDir(), "none.json")), "serve")
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, "AIKEYS_SEALER_OLD: there is no keyset at ")
	})
}
