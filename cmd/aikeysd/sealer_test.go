package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

const everything = "seal, open, rewrap, status"

// secretsService is a secrets-svc as a process of its own, which a test may kill, stop and start again.
type secretsService struct {
	*programtest.Process // nil before it runs

	t   *testing.T
	dir string
}

// newSecretsService prepares a secrets-svc with a keyset and one client, the user of this process. It does not start
// the program.
func newSecretsService(t *testing.T, may string) *secretsService {
	t.Helper()
	require.NoError(t, buildPrograms())
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // a socket's path has at most 108 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	s := &secretsService{t: t, dir: dir}
	_, err = local.AddKEK(filepath.Join(dir, "main.json"))
	require.NoError(t, err)
	s.allow(fmt.Sprintf("uids: [%d]", os.Geteuid()), may)
	return s
}

// allow replaces the clients file; the service notices.
func (s *secretsService) allow(who, may string) {
	s.t.Helper()
	s.setClients(fmt.Sprintf("{name: aikeysd, %s, namespace: main, may: [%s]}", who, may))
}

func (s *secretsService) setClients(clients string) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "next.yaml"), []byte("clients: ["+clients+"]\n"), 0o600))
	require.NoError(s.t, os.Rename(filepath.Join(s.dir, "next.yaml"), filepath.Join(s.dir, "clients.yaml")))
}

// start starts the process, on its socket unless flags say otherwise. It does not wait until the process is ready.
func (s *secretsService) start(flags ...string) *secretsService {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(shared, "secrets-svc"), append([]string{"serve", "--listen", "unix:" + s.dir + "/api.sock",
		"--ops-listen", "127.0.0.1:0", "--keys", s.dir, "--clients", s.dir + "/clients.yaml", "--audit-log", s.dir + "/audit.log"}, flags...)...)
	cmd.Env = []string{}
	s.Process = programtest.Launch(s.t, cmd)
	return s
}

// startTLS starts the process with mutual TLS. It returns environFor, which returns the variables of an aikeysd that
// calls the process with a certificate for name.
func (s *secretsService) startTLS() (environFor func(name string) []string) {
	s.t.Helper()
	trusted, server := tlsfilestest.NewAuthority(s.t), tlsfilestest.WriteCertificate(s.t, s.t.TempDir(), 1)
	s.start("--listen", "127.0.0.1:0", "--tls-cert", server.CertFile, "--tls-key", server.KeyFile,
		"--tls-client-ca", trusted.Write(s.t, filepath.Join(s.dir, "clients.crt")))
	url := s.URL("api")
	return func(name string) []string {
		files := trusted.Issue(s.t, s.t.TempDir(), func(c *x509.Certificate) { c.Subject.CommonName = name })
		return []string{"AIKEYS_SEALER=secrets+" + url, "AIKEYS_SEALER_CA=" + server.CertFile,
			"AIKEYS_SEALER_CERT=" + files.CertFile, "AIKEYS_SEALER_KEY=" + files.KeyFile}
	}
}

// sealer is the setting of an aikeysd that seals with the service.
func (s *secretsService) sealer() string { return "AIKEYS_SEALER=secrets+unix:" + s.dir + "/api.sock" }

func TestSecretsServiceLostUnderLoad(t *testing.T) {
	for name, tc := range map[string]struct{ lose, restore func(s *secretsService) }{
		"killed":  {func(s *secretsService) { s.End(syscall.SIGKILL) }, func(s *secretsService) { s.start() }},
		"hanging": {func(s *secretsService) { s.Signal(syscall.SIGSTOP) }, func(s *secretsService) { s.Signal(syscall.SIGCONT) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := newSecretsService(t, everything).start()
			environ := with(newEnviron(t), service.sealer(), "AIKEYS_RATE_LIMIT=0")
			token := newOwner(t, environ)
			plane := newDataPlane(t, environ)
			s := startReady(t, environ)
			key := s.register(token, "first")
			var registrations atomic.Int64
			register := func() programtest.Reply {
				return programtest.Send(http.MethodPost, s.api+"/v1/aikeys", token, registerBody(fmt.Sprintf("key-%d", registrations.Add(1))))
			}
			fetch := func() programtest.Reply {
				return programtest.Send(http.MethodPost, s.dataplane+"/v1/fetch", plane, `{"key_id":"`+key+`"}`)
			}
			list := func() programtest.Reply { return programtest.Send(http.MethodGet, s.api+"/v1/aikeys", token, "") }
			readiness := func() programtest.Reply { return programtest.Send(http.MethodGet, s.ops+"/readyz", "", "") }
			// load repeats call until it is stopped or the test ends, and returns how often each status came.
			load := func(call func() programtest.Reply) (stop func() map[int]int) {
				var mu sync.Mutex
				var callers sync.WaitGroup
				answers := map[int]int{}
				ctx, cancel := context.WithCancel(context.Background())
				for range 3 {
					callers.Go(func() {
						for ctx.Err() == nil {
							status := call().Status
							mu.Lock()
							answers[status]++
							mu.Unlock()
						}
					})
				}
				stop = func() map[int]int {
					cancel()
					callers.Wait()
					return answers
				}
				t.Cleanup(func() { stop() })
				return stop
			}
			require.Equal(t, http.StatusOK, fetch().Status)
			registers, fetches, lists := load(register), load(fetch), load(list)

			tc.lose(service)
			// Everything else works without the service.
			for name, call := range map[string]func() programtest.Reply{"register": register, "fetch": fetch} {
				var got programtest.Reply
				s.Await(name+" fails", func() bool { // a signal takes effect after a moment
					got = call()
					return got.Status == http.StatusServiceUnavailable
				})
				require.NotEmpty(t, got.Header.Get("Retry-After"), name)
				require.Contains(t, got.Body, `"code":"unavailable"`)
			}
			require.Equal(t, http.StatusOK, list().Status)
			require.Equal(t, http.StatusOK, s.get(s.api+"/v1/aikeys/"+key, token).Status)
			require.Equal(t, http.StatusOK, s.get(s.api+"/v1/customers/-/projects/-/events", token).Status)
			s.Await("readiness says which check fails", func() bool { return strings.Contains(readiness().Body, `"keyset":"unavailable"`) })
			require.Equal(t, http.StatusOK, readiness().Status, "balancers go on sending what still works")
			revoked := programtest.Send(http.MethodDelete, s.api+"/v1/aikeys/"+key, token, "")
			require.Equal(t, http.StatusOK, revoked.Status, "a leaked key can be revoked: %s", revoked.Body)
			listed := lists()
			require.Len(t, listed, 1, "lists never failed: %v", listed)
			require.NotZero(t, listed[http.StatusOK])

			tc.restore(service)
			s.Await("a register", func() bool { return register().Status == http.StatusCreated })
			s.Await("readiness", func() bool { return strings.Contains(readiness().Body, `"keyset":"ok"`) })
			for what, answers := range map[string]map[int]int{"registers": registers(), "fetches": fetches()} {
				for status := range answers {
					require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusForbidden, http.StatusServiceUnavailable}, status,
						"%s: %v", what, answers)
				}
				require.NotZero(t, answers[http.StatusServiceUnavailable], what)
			}
			require.Equal(t, exitOK, s.Stop())
		})
	}
}

func TestServeWaitsForTheSecretsService(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, everything)
	environ := with(newEnviron(t), service.sealer())
	got := aikeysd(t, environ, "check")
	require.Equal(t, exitFailure, got.Code)
	require.Regexp(t, `keyset +FAILED +.*check that secrets-svc runs at secrets\+unix:`, got.Stdout)
	s := begin(t, environ, "serve")
	s.awaitLog(`"waiting_for":"keyset"`)
	unready := s.get(s.ops+"/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, unready.Status)
	require.JSONEq(t, `{"ready":false,"checks":{"service":"starting","database":"ok","schema":"ok","keyset":"pending"}}`, unready.Body)
	require.Contains(t, s.Stderr.String(), "check that secrets-svc runs at secrets+unix:")
	refused := s.get(s.api+"/v1/whoami", "")
	require.Equal(t, http.StatusServiceUnavailable, refused.Status)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))

	service.start()
	s.awaitLog(`"msg":"ready"`)
	require.Equal(t, 1, strings.Count(s.Stderr.String(), `"waiting_for":"keyset"`), "logged once:\n%s", &s.Stderr)
	require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz", "").Body)
	require.Equal(t, exitOK, s.Stop())
	require.Regexp(t, `keyset +ok +secrets\+unix:.* opens this database`, mustAikeysd(t, environ, "check"))

	other := newSecretsService(t, everything).start()
	environ = with(environ, other.sealer())
	wrong := begin(t, environ, "serve")
	require.Equal(t, exitFailure, wrong.Wait(), "another one's keyset is refused")
	for _, says := range []string{
		"the sealer's keyset does not open this database", "check that AIKEYS_SEALER=secrets+unix:", "AIKEYS_SEALER_OLD",
		"nothing was changed in the database",
	} {
		require.Contains(t, wrong.Stderr.String(), says)
	}
}

func TestServeWaitsForPermission(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, everything)
	service.allow("certificates: [cn:aikeysd.internal]", "rewrap")
	named := service.startTLS()
	environ := newEnviron(t)
	token := newOwner(t, environ)

	s := begin(t, with(environ, named("aikeysd.internal")...), "serve")
	s.awaitLog(`"waiting_for":"secrets-svc's permission"`)
	require.Contains(t, s.Stderr.String(), "secrets-svc does not allow this client to do that; its operator lists the clients")
	require.Equal(t, http.StatusServiceUnavailable, s.get(s.ops+"/readyz", "").Status)
	service.allow("certificates: [cn:aikeysd.internal]", everything)
	s.awaitLog(`"msg":"ready"`)
	s.register(token, "a")
	require.Equal(t, exitOK, s.Stop())

	stranger := begin(t, with(environ, named("somebody.internal")...), "serve")
	stranger.awaitLog(`"waiting_for":"secrets-svc's permission"`)
	require.Equal(t, exitOK, stranger.Stop(), "the client is known by its certificate's name")
}

// An installation moves from a keyset file to secrets-svc. At first, the keyset file still opens its envelopes, and
// secrets-svc seals new secrets. Then all secrets move to secrets-svc, and a client without the right to open re-wraps
// them there.
func TestSecretsMoveToTheSecretsService(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, everything).start()
	before := newEnviron(t)
	token := newOwner(t, before)
	plane := newDataPlane(t, before)
	s := startReady(t, before)
	ids := []string{s.register(token, "old-1"), s.register(token, "old-2")}
	require.Equal(t, exitOK, s.Stop())
	environ := with(before, service.sealer(), strings.Replace(before[4], "SEALER", "SEALER_OLD", 1))
	s = startReady(t, environ)
	ids = append(ids, s.register(token, "new"))
	requireServes := func() {
		for _, id := range ids {
			got := s.fetch(plane, id)
			require.Equal(t, http.StatusOK, got.Status, got.Body)
			require.Contains(t, got.Body, fakeSecret)
		}
	}
	requireServes()
	audit, err := os.ReadFile(filepath.Join(service.dir, "audit.log"))
	require.NoError(t, err)
	require.Contains(t, string(audit), ids[2], "the service opened the new one")
	require.NotContains(t, string(audit), fakeSecret)

	require.Contains(t, mustAikeysd(t, environ, "rewrap"), "re-wrapped 2 keys; all keys are")
	requireServes()
	environ = with(before, service.sealer())
	keyset, who := filepath.Join(service.dir, "main.json"), fmt.Sprintf("uids: [%d]", os.Geteuid())
	id, err := local.AddKEK(keyset)
	require.NoError(t, err)
	require.NoError(t, local.SetPrimary(keyset, id))
	service.allow(who, "rewrap, status")
	s.Await("the service reads the new list of clients", func() bool {
		got := aikeysd(t, environ, "check")
		return got.Code == exitFailure && strings.Contains(got.Stdout, "does not allow this client")
	})
	got := aikeysd(t, environ, "rewrap")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stdout, "re-wrapped 3 keys; all keys are, and the canary is, under "+id)
	service.allow(who, everything)
	s.Await("the service opens again", func() bool { return s.fetch(plane, ids[0]).Status == http.StatusOK })
	requireServes()
	require.Equal(t, exitOK, s.Stop())
}

// The script behind "make run-split" starts all programs. If only the script gets a Ctrl-C, all programs still end.
func TestRunSplit(t *testing.T) {
	t.Parallel()
	require.NoError(t, buildPrograms())
	data, err := os.MkdirTemp("", "split") //nolint:usetesting // a socket's path has at most 108 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(data)) })
	for _, start := range []string{"the first start", "the next one, with what that made"} {
		const anyPort = "127.0.0.1:0"
		script := exec.Command("../../tools/run-split.sh", "--listen", anyPort, "--dataplane-listen", anyPort, "--ops-listen", anyPort,
			"--gateway-listen", anyPort)
		script.Env = []string{"PATH=" + os.Getenv("PATH"), "DATA=" + data, "BIN=" + shared, "SECRETS_SVC_OPS_LISTEN=" + anyPort}
		s := programtest.Launch(t, script)
		t.Cleanup(func() { s.Stop() }) // the script ends the others
		s.Await(start, func() bool { return strings.Contains(s.Stdout.String(), "Ctrl-C stops it") })
		found := regexp.MustCompile(`secrets-svc is process (\d+), aikeysd (\d+)`).FindStringSubmatch(s.Stderr.String())
		require.NotNil(t, found, &s.Stderr)
		require.Equal(t, exitOK, s.Stop(), &s.Stderr)
		require.Equal(t, 3, strings.Count(s.Stderr.String(), "msg=stopped"), "all end in order:\n%s", &s.Stderr)
		for _, text := range found[1:] {
			pid, err := strconv.Atoi(text)
			require.NoError(t, err)
			require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d is still there", pid)
		}
	}
	audit, err := os.ReadFile(filepath.Join(data, "audit.log"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, strings.Count(string(audit), `"key_id":"canary"`), 2, "each start had it open the canary:\n%s", audit)
}

// While the key management service hangs or fails, no request waits long for it, and gateways serve the keys that they
// have cached.
func TestKeyManagementServiceLost(t *testing.T) {
	t.Parallel()
	bao := vaulttest.Start(t) // a server of its own, because the test stops it
	url, _ := bao.Sealer(t)
	environ := with(newEnviron(t), "AIKEYS_SEALER="+url)
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	s := startReady(t, environ)
	key := s.register(owner, "first")
	resolver := s.runDataPlane(plane)
	s.Await("the gateway follows the events and has the key", func() bool { return resolver.Status().Connected && resolve(t, resolver) == key })

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
			got := s.fetch(plane, key)
			assert.Equal(t, http.StatusServiceUnavailable, got.Status, got.Body)
		})
	}
	burst.Wait()
	for name, ask := range map[string]func() programtest.Reply{
		"register": func() programtest.Reply {
			return programtest.Send(http.MethodPost, s.api+"/v1/aikeys", owner, registerBody("second"))
		},
		"fetch": func() programtest.Reply { return s.fetch(plane, key) },
	} {
		var got programtest.Reply
		s.Await(name+" is not sent to a service that hangs", func() bool {
			began := time.Now()
			got = ask()
			require.Equal(t, http.StatusServiceUnavailable, got.Status, got.Body)
			return time.Since(began) < time.Second
		})
		require.NotEmpty(t, got.Header.Get("Retry-After"), name)
	}
	require.Equal(t, key, resolve(t, resolver), "the gateway serves on")
	require.Equal(t, http.StatusOK, s.get(s.api+"/v1/aikeys", owner).Status)
	close(released)
	bao.Admit()
	s.Await("a fetch", func() bool { return s.fetch(plane, key).Status == http.StatusOK })
	revoked := programtest.Send(http.MethodDelete, s.api+"/v1/aikeys/"+key, owner, "")
	require.Equal(t, http.StatusOK, revoked.Status, revoked.Body)
	s.Await("the gateway drops the key", func() bool { return resolve(t, resolver) == "" })
}

func TestServeWaitsForTheKeyManagementService(t *testing.T) {
	t.Parallel()
	bao := vaulttest.Start(t)
	key := bao.NewKey(t, nil)
	token, policy := bao.TokenFile(t, strings.ReplaceAll(vaulttest.Policy(t, key), `"update"`, `"create", "update"`), nil)
	environ := with(newEnviron(t), "AIKEYS_SEALER="+bao.URL(key, "token_file="+token))
	const says = "the token has the capability create on transit/encrypt/"
	got := aikeysd(t, environ, "check")
	require.Equal(t, exitFailure, got.Code)
	require.Contains(t, got.Stdout, says)
	s := begin(t, environ, "serve")
	s.awaitLog(`"waiting_for":"the key management service's permission"`)
	require.Contains(t, s.Stderr.String(), says)
	bao.Call(t, http.MethodPut, "sys/policies/acl/"+policy, map[string]any{"policy": vaulttest.Policy(t, key)})
	s.awaitLog(`"msg":"ready"`)
	require.Equal(t, exitOK, s.Stop())
	require.Contains(t, mustAikeysd(t, environ, "check"), " opens this database")

	bao.Call(t, http.MethodPut, "sys/policies/acl/"+policy,
		map[string]any{"policy": strings.ReplaceAll(vaulttest.Policy(t, key), `"update"`, `"create", "update"`)})
	s = begin(t, environ, "serve")
	s.awaitLog(`"msg":"new secrets can't be sealed"`)
	require.Contains(t, s.Stderr.String(), says)
	require.Equal(t, exitOK, s.Stop(), "what was sealed opens")

	url, _ := bao.Sealer(t)
	wrong := begin(t, with(environ, "AIKEYS_SEALER="+url), "serve")
	require.Equal(t, exitFailure, wrong.Wait(), "another key is refused")
	require.Contains(t, wrong.Stderr.String(), "is the key that belongs to ")
}

// All secrets move from the keyset file to OpenBao and back. Each job is killed once before its end, while a data plane
// fetches keys.
func TestSecretsMoveToOpenBaoAndBack(t *testing.T) {
	t.Parallel()
	require.NoError(t, buildPrograms())
	url, _ := vaulttest.Start(t).Sealer(t)
	i := install(t, newEnviron(t), 6)
	file := "local:" + i.keyset
	for _, move := range []struct{ from, to string }{{file, url}, {url, file}} {
		require.Equal(t, exitOK, i.Stop())
		environ := with(i.environ, "AIKEYS_SEALER="+move.to, "AIKEYS_SEALER_OLD="+move.from)
		i.server = startReady(t, environ)
		ctx, cancel := context.WithCancel(t.Context())
		var fetches sync.WaitGroup
		fetches.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				got := i.fetch(i.plane, i.ids[n%len(i.ids)])
				assert.Equal(t, http.StatusOK, got.Status, got.Body)
			}
		})
		t.Cleanup(cancel)
		job := exec.Command(filepath.Join(shared, "aikeysd"), "rewrap", "--rate", "5")
		job.Env = environ
		require.NoError(t, job.Start())
		i.Await("a key has moved", func() bool {
			return !strings.Contains(mustAikeysd(t, environ, "check"), "enabled  0        6 ")
		})
		_ = job.Process.Kill() // unless it has ended
		_ = job.Wait()
		i.requireServes()
		require.Contains(t, mustAikeysd(t, environ, "rewrap"), "; all keys are, and the canary is, under")
		cancel()
		fetches.Wait()
		require.Equal(t, exitOK, i.Stop())
		i.server = startReady(t, with(i.environ, "AIKEYS_SEALER="+move.to))
		i.requireServes()
	}
}

// With a real secrets-svc, the process that faces the internet has only the right to seal.
func TestThePublicRoleNeedsNoRightToOpen(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		service := newSecretsService(t, "seal")
		service.setClients(`{name: public, certificates: [cn:public.internal], namespace: main, may: [seal]},
			{name: planes, certificates: [cn:planes.internal], namespace: main, may: [open, status]},
			{name: strange, certificates: [cn:strange.internal], namespace: other, may: [seal]}`)
		_, err := local.AddKEK(filepath.Join(service.dir, "other.json"))
		require.NoError(t, err)
		named := service.startTLS()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		publicEnviron := with(environ, append(named("public.internal"), "AIKEYS_ROLE=public")...)
		planesEnviron := with(environ, append(named("planes.internal"), "AIKEYS_ROLE=dataplane")...)

		public, planes := begin(t, publicEnviron, "serve"), begin(t, planesEnviron, "serve") // in any order: each waits for the other
		public.awaitLog(`"msg":"ready"`)
		planes.awaitLog(`"msg":"ready"`)
		owner, plane := newOwner(t, environ), newDataPlane(t, environ)

		id := public.register(owner, "a")
		fetched := planes.fetch(plane, id)
		require.Equal(t, http.StatusOK, fetched.Status, fetched.Body)
		require.Contains(t, fetched.Body, fakeSecret)
		lines := planes.follow(programtest.Client, plane)
		revoked := programtest.Send(http.MethodDelete, public.api+"/v1/aikeys/"+id, owner, "")
		require.Contains(t, revoked.Body, `"data_planes":1`, "the other process has the stream")
		received := false
		for line := range lines {
			if received = strings.Contains(line, id) && strings.Contains(line, "key.revoked"); received {
				break
			}
		}
		require.True(t, received)
		require.Equal(t, http.StatusForbidden, planes.fetch(plane, id).Status)
		leaks := programtest.Send(http.MethodPost, public.api+"/v1/customers/-/projects/-/leaks", owner, `{"values":["`+fakeSecret+`"],"revoke":false}`)
		require.Contains(t, leaks.Body, id)

		require.Empty(t, public.dataplane)
		require.Empty(t, planes.api)
		require.Equal(t, http.StatusNotFound, programtest.Send(http.MethodPost, public.api+"/v1/fetch", plane, `{"key_id":"`+id+`"}`).Status)
		require.Equal(t, http.StatusNotFound, planes.get(planes.dataplane+"/v1/aikeys", owner).Status)
		require.Equal(t, http.StatusOK, public.get(public.api+"/docs", "").Status)
		for _, s := range []*server{public, planes} {
			require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz", "").Body)
		}

		// No register fails when a KEK becomes primary that the other process has already seen.
		kek, err := local.AddKEK(filepath.Join(service.dir, "main.json"))
		require.NoError(t, err)
		require.NoError(t, local.SetPrimary(filepath.Join(service.dir, "main.json"), kek))
		body := registerBody("b")
		public.Await("a register under the new KEK", func() bool {
			got := programtest.Send(http.MethodPost, public.api+"/v1/aikeys", owner, body)
			require.Contains(t, []int{http.StatusCreated, http.StatusServiceUnavailable}, got.Status, got.Body)
			body = registerBody("b" + got.Header.Get("X-Request-Id"))
			return got.Status == http.StatusCreated && strings.Contains(aikeysd(t, planesEnviron, "check").Stdout, kek+"  primary  1 ")
		})

		report := mustAikeysd(t, publicEnviron, "check")
		require.Regexp(t, `settings +ok +public API on 127.0.0.1:0, ops on`, report)
		require.Regexp(t, `keyset +ok +secrets\+https://.* seals with this database's keyset`, report)
		require.Regexp(t, `keys +- +not checked: the role public may only seal`, report)
		require.Regexp(t, `settings +ok +data-plane API on 127.0.0.1:0, ops on`, mustAikeysd(t, planesEnviron, "check"))
		require.Equal(t, exitUsage, aikeysd(t, publicEnviron, "check", "--deep").Code)
		strange := aikeysd(t, with(publicEnviron, named("strange.internal")...), "check")
		require.Equal(t, exitFailure, strange.Code)
		require.Regexp(t, `keyset +FAILED +.*has found the sealer's key-encryption key in this database's keyset`, strange.Stdout)

		require.Equal(t, exitOK, public.Stop())
		require.Equal(t, exitOK, planes.Stop())
		audit, err := os.ReadFile(filepath.Join(service.dir, "audit.log"))
		require.NoError(t, err)
		require.Contains(t, string(audit), `"client":"planes"`)
		opens := regexp.MustCompile(`"client":"public".*"key_id":"(.*?)".*"outcome":"(.*?)"`).FindAllStringSubmatch(string(audit), -1)
		require.Len(t, opens, 1, "it opens the canary for the key of fingerprints, and was never refused anything")
		require.Equal(t, []string{"canary", "opened"}, opens[0][1:])
	})
}

// The public role waits until another process has brought the schema up to date.
func TestThePublicRoleChangesNoSchema(t *testing.T) {
	t.Parallel()
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+modelstest.EngineSQLite.URL(t))
	s := begin(t, environ, "serve", "--role", "public")
	s.awaitLog(`"waiting_for":"schema"`)
	require.Contains(t, s.Stderr.String(), "AIKEYS_ROLE=public; run: aikeysd migrate up")
	require.Contains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Equal(t, exitOK, s.Stop())
}

// An attacker who took over the process could not open the envelopes that the process has sealed.
func TestTheClientOfThePublicRoleOpensNothing(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, "seal").start()
	backend, err := remote.New(remote.Config{Socket: filepath.Join(service.dir, "api.sock")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	binding := sealer.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: "byok_1", Provider: "openai", Version: 1}
	var envelope sealer.Envelope
	require.Eventually(t, func() bool {
		envelope, err = backend.Seal(t.Context(), binding, sealer.NewSecret([]byte(fakeSecret)))
		return err == nil
	}, programtest.Patience, 5*time.Millisecond, "%s", service.Output())
	_, err = backend.Open(t.Context(), binding, envelope.Bytes)
	require.ErrorIs(t, err, remote.ErrNotAllowed)
	_, err = backend.Rewrap(t.Context(), binding, envelope.Bytes)
	require.ErrorIs(t, err, remote.ErrNotAllowed)
}

// The public role seals only with key-encryption keys that a process with the right to open has checked.
func TestThePublicRoleSealsNothingUnderAStrangeKEK(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	require.Equal(t, exitOK, startReady(t, environ).Stop())
	s := begin(t, with(environ, "AIKEYS_SEALER=local:"+filepath.Join(t.TempDir(), "other.json")), "serve", "--role", "public")
	s.awaitLog(`"waiting_for":"keyset"`)
	for _, says := range []string{"check that AIKEYS_SEALER=local:", "an aikeysd of the role dataplane or all runs with it", "this process could open secrets, because it has the keyset file"} {
		require.Contains(t, s.Stderr.String(), says)
	}
	require.Equal(t, http.StatusServiceUnavailable, programtest.Send(http.MethodPost, s.api+"/v1/aikeys", token, registerBody("a")).Status)
	require.Equal(t, http.StatusServiceUnavailable, s.get(s.ops+"/readyz", "").Status)
	require.Equal(t, exitOK, s.Stop())
}
