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

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/sealer/local"
)

const everything = "seal, open, rewrap, status"

// secretsService is a secrets-svc as a process of its own, which a test may kill, stop and start again.
type secretsService struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	stderr buffer
}

// newSecretsService gives the program a keyset and one client, the user of this process. It does not run yet.
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
	s.cmd = exec.CommandContext(s.t.Context(), filepath.Join(shared, "secrets-svc"), append([]string{"serve", "--listen", "unix:" + s.dir + "/api.sock",
		"--ops-listen", "127.0.0.1:0", "--keys", s.dir, "--clients", s.dir + "/clients.yaml", "--audit-log", s.dir + "/audit.log"}, flags...)...)
	s.cmd.Stderr, s.cmd.Env = &s.stderr, []string{}
	require.NoError(s.t, s.cmd.Start())
	s.t.Cleanup(s.kill)
	return s
}

// startTLS starts the process with mutual TLS. It returns the variables of an aikeysd that calls it with a certificate of this name.
func (s *secretsService) startTLS() (environFor func(name string) []string) {
	s.t.Helper()
	trusted, server := tlsfilestest.NewAuthority(s.t), tlsfilestest.WriteCertificate(s.t, s.t.TempDir(), 1)
	s.start("--listen", "127.0.0.1:0", "--tls-cert", server.CertFile, "--tls-key", server.KeyFile,
		"--tls-client-ca", trusted.Write(s.t, filepath.Join(s.dir, "clients.crt")))
	var found []string
	require.Eventually(s.t, func() bool {
		found = regexp.MustCompile(`"api":"https://([^"]+)"`).FindStringSubmatch(s.stderr.String())
		return found != nil
	}, patience, 5*time.Millisecond, "%s", &s.stderr)
	return func(name string) []string {
		files := trusted.Issue(s.t, s.t.TempDir(), func(c *x509.Certificate) { c.Subject.CommonName = name })
		return []string{"AIKEYS_SEALER=secrets+https://" + found[1], "AIKEYS_SEALER_CA=" + server.CertFile,
			"AIKEYS_SEALER_CERT=" + files.CertFile, "AIKEYS_SEALER_KEY=" + files.KeyFile}
	}
}

// kill ends the process as a crash does.
func (s *secretsService) kill() {
	_ = s.cmd.Process.Kill() // unless it has ended
	_ = s.cmd.Wait()
}

// sealer is the setting of an aikeysd that seals with the service.
func (s *secretsService) sealer() string { return "AIKEYS_SEALER=secrets+unix:" + s.dir + "/api.sock" }

func TestSecretsServiceLostUnderLoad(t *testing.T) {
	for name, tc := range map[string]struct{ lose, restore func(s *secretsService) }{
		"killed": {(*secretsService).kill, func(s *secretsService) { s.start() }},
		"hanging": {
			func(s *secretsService) { require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGSTOP)) },
			func(s *secretsService) { require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGCONT)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := newSecretsService(t, everything).start()
			environ := with(newEnviron(t), service.sealer(), "AIKEYS_RATE_LIMIT=0")
			token := newOwner(t, environ)
			plane := newDataPlane(t, environ)
			s := startReady(t, environ)
			key := s.register(token, "first")
			ask := func(method, url, token, body string) reply {
				got, err := tryCall(client, method, url, token, body)
				if err != nil {
					return reply{body: err.Error()} // no status: the test accepts none
				}
				return got
			}
			var registrations atomic.Int64
			register := func() reply {
				return ask(http.MethodPost, s.api+"/v1/aikeys", token, registerBody(fmt.Sprintf("key-%d", registrations.Add(1))))
			}
			fetch := func() reply { return ask(http.MethodPost, s.dataplane+"/v1/fetch", plane, `{"key_id":"`+key+`"}`) }
			list := func() reply { return ask(http.MethodGet, s.api+"/v1/aikeys", token, "") }
			readiness := func() reply { return ask(http.MethodGet, s.ops+"/readyz", "", "") }
			// load calls until it is stopped or the test ends, and returns how often each status came.
			load := func(call func() reply) (stop func() map[int]int) {
				var mu sync.Mutex
				var callers sync.WaitGroup
				answers := map[int]int{}
				ctx, cancel := context.WithCancel(context.Background())
				for range 3 {
					callers.Go(func() {
						for ctx.Err() == nil {
							status := call().status
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
			require.Equal(t, http.StatusOK, fetch().status)
			registers, fetches, lists := load(register), load(fetch), load(list)

			tc.lose(service)
			// The rest goes on without the service.
			for name, call := range map[string]func() reply{"register": register, "fetch": fetch} {
				var got reply
				s.eventually(name+" fails", func() bool { // a signal takes effect after a moment
					got = call()
					return got.status == http.StatusServiceUnavailable
				})
				require.NotEmpty(t, got.header.Get("Retry-After"), name)
				require.Contains(t, got.body, `"code":"unavailable"`)
			}
			require.Equal(t, http.StatusOK, list().status)
			require.Equal(t, http.StatusOK, s.get(s.api+"/v1/aikeys/"+key, token).status)
			require.Equal(t, http.StatusOK, s.get(s.api+"/v1/customers/-/projects/-/events", token).status)
			s.eventually("readiness says which check fails", func() bool { return strings.Contains(readiness().body, `"keyset":"unavailable"`) })
			require.Equal(t, http.StatusOK, readiness().status, "balancers go on sending what still works")
			revoked := ask(http.MethodDelete, s.api+"/v1/aikeys/"+key, token, "")
			require.Equal(t, http.StatusOK, revoked.status, "a leaked key can be revoked: %s", revoked.body)
			listed := lists()
			require.Len(t, listed, 1, "lists never failed: %v", listed)
			require.NotZero(t, listed[http.StatusOK])

			tc.restore(service)
			s.eventually("a register", func() bool { return register().status == http.StatusCreated })
			s.eventually("readiness", func() bool { return strings.Contains(readiness().body, `"keyset":"ok"`) })
			for what, answers := range map[string]map[int]int{"registers": registers(), "fetches": fetches()} {
				for status := range answers {
					require.Contains(t, []int{http.StatusOK, http.StatusCreated, http.StatusForbidden, http.StatusServiceUnavailable}, status,
						"%s: %v", what, answers)
				}
				require.NotZero(t, answers[http.StatusServiceUnavailable], what)
			}
			require.Equal(t, exitOK, s.wait())
		})
	}
}

func TestServeWaitsForTheSecretsService(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, everything)
	environ := with(newEnviron(t), service.sealer())
	got := aikeysd(t, environ, "check")
	require.Equal(t, exitFailure, got.code)
	require.Regexp(t, `keyset +FAILED +.*check that secrets-svc runs at secrets\+unix:`, got.stdout)
	s := begin(t, environ, "serve")
	s.awaitLog(`"waiting_for":"keyset"`)
	unready := s.get(s.ops+"/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, unready.status)
	require.JSONEq(t, `{"ready":false,"checks":{"service":"starting","database":"ok","schema":"ok","keyset":"pending"}}`, unready.body)
	require.Contains(t, s.stderr.String(), "check that secrets-svc runs at secrets+unix:")
	refused := s.get(s.api+"/v1/whoami", "")
	require.Equal(t, http.StatusServiceUnavailable, refused.status)
	require.NotEmpty(t, refused.header.Get("Retry-After"))

	service.start()
	s.awaitLog(`"msg":"ready"`)
	require.Equal(t, 1, strings.Count(s.stderr.String(), `"waiting_for":"keyset"`), "logged once:\n%s", &s.stderr)
	require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz", "").body)
	require.Equal(t, exitOK, s.wait())
	require.Regexp(t, `keyset +ok +secrets\+unix:.* opens this database`, mustAikeysd(t, environ, "check"))

	other := newSecretsService(t, everything).start()
	environ = with(environ, other.sealer())
	wrong := begin(t, environ, "serve")
	require.Equal(t, exitFailure, wrong.end(), "another one's keyset is refused")
	for _, says := range []string{
		"the sealer's keyset does not open this database", "check that AIKEYS_SEALER=secrets+unix:", "AIKEYS_SEALER_OLD",
		"nothing was changed in the database",
	} {
		require.Contains(t, wrong.stderr.String(), says)
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
	require.Contains(t, s.stderr.String(), "secrets-svc does not allow this client to do that; its operator lists the clients")
	require.Equal(t, http.StatusServiceUnavailable, s.get(s.ops+"/readyz", "").status)
	service.allow("certificates: [cn:aikeysd.internal]", everything)
	s.awaitLog(`"msg":"ready"`)
	s.register(token, "a")
	require.Equal(t, exitOK, s.wait())

	stranger := begin(t, with(environ, named("somebody.internal")...), "serve")
	stranger.awaitLog(`"waiting_for":"secrets-svc's permission"`)
	require.Equal(t, exitOK, stranger.wait(), "the client is known by its certificate's name")
}

// A small user grows: the keyset file of before opens what was sealed with it, the service seals what is new, and then
// everything moves there and is re-wrapped there by a client that may never open.
func TestSecretsMoveToTheSecretsService(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, everything).start()
	before := newEnviron(t)
	token := newOwner(t, before)
	plane := newDataPlane(t, before)
	s := startReady(t, before)
	ids := []string{s.register(token, "old-1"), s.register(token, "old-2")}
	require.Equal(t, exitOK, s.wait())
	environ := with(before, service.sealer(), strings.Replace(before[4], "SEALER", "SEALER_OLD", 1))
	s = startReady(t, environ)
	ids = append(ids, s.register(token, "new"))
	requireServes := func() {
		for _, id := range ids {
			got := s.fetch(plane, id)
			require.Equal(t, http.StatusOK, got.status, got.body)
			require.Contains(t, got.body, fakeSecret)
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
	s.eventually("the service reads the new list of clients", func() bool {
		got := aikeysd(t, environ, "check")
		return got.code == exitFailure && strings.Contains(got.stdout, "does not allow this client")
	})
	got := aikeysd(t, environ, "rewrap")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, "re-wrapped 3 keys; all keys are, and the canary is, under "+id)
	service.allow(who, everything)
	s.eventually("the service opens again", func() bool { return s.fetch(plane, ids[0]).status == http.StatusOK })
	requireServes()
	require.Equal(t, exitOK, s.wait())
}

// The script behind "make run-split" starts all programs, and one Ctrl-C, which comes to the script alone, ends them.
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
		s := &server{t: t, exited: make(chan struct{}), stop: func() { _ = script.Process.Signal(os.Interrupt) }} // unless it has ended
		script.Env = []string{"PATH=" + os.Getenv("PATH"), "DATA=" + data, "BIN=" + shared, "SECRETS_SVC_OPS_LISTEN=" + anyPort}
		script.Stdout, script.Stderr = &s.stdout, &s.stderr
		require.NoError(t, script.Start())
		go func() {
			defer close(s.exited)
			_ = script.Wait() // its code is looked at below
		}()
		t.Cleanup(func() { s.wait() })
		s.eventually(start, func() bool { return strings.Contains(s.stdout.String(), "Ctrl-C stops it") })
		found := regexp.MustCompile(`secrets-svc is process (\d+), aikeysd (\d+)`).FindStringSubmatch(s.stderr.String())
		require.NotNil(t, found, &s.stderr)
		s.wait()
		require.Equal(t, 0, script.ProcessState.ExitCode(), &s.stderr)
		require.Equal(t, 3, strings.Count(s.stderr.String(), "msg=stopped"), "all end in order:\n%s", &s.stderr)
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
