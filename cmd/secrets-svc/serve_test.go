package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/sealer"
)

func TestSetupFromScratch(t *testing.T) {
	i := install(t)
	got := i.run(nil, "check")
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stdout, "namespace main  FAILED")

	id := i.create()
	require.Regexp(t, `^local:[0-9a-f]{8}$`, id)
	require.Contains(t, i.must("check"), "primary "+id+"; 0 enabled, 0 retired")

	s := i.launch()
	client := i.client()
	envelope := mustSeal(t, client)
	require.Equal(t, id, envelope.KEKID)
	requireOpens(t, client, envelope.Bytes)
	require.Contains(t, i.read("audit"), `"outcome":"opened"`)

	status, body := s.get("/healthz")
	require.Equal(t, http.StatusOK, status, body)
	status, body = s.get("/readyz")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"ready": true, "checks": {"service": "ok", "keysets": "ok"}}`, body)
	_, body = s.get("/metrics")
	require.Contains(t, body, `secrets_svc_operations_total{client="tests",operation="openEnvelope",outcome="ok"} 1`)
	require.Contains(t, body, `secrets_svc_keyset_readable{namespace="main"} 1`)

	info, err := os.Stat(i.path("api.sock"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	s.stop()
	require.Contains(t, i.read("log"), `"msg":"stopped"`)
	require.NoFileExists(t, i.path("api.sock"))
}

func TestNamespaceWorksOnceItHasAKeyset(t *testing.T) {
	t.Parallel()
	i := install(t)
	s := i.launch()
	status, _ := s.get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	client := i.client()
	_, err := client.Seal(t.Context(), binding(), sealer.NewSecret([]byte(plain)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.NoDirExists(t, i.path("keys"), "a service makes no keyset")
	require.Contains(t, i.read("log"), "a namespace has no keyset that can be used")

	i.create()
	requireOpens(t, client, mustSeal(t, client).Bytes)
	status, _ = s.get("/readyz")
	require.Equal(t, http.StatusOK, status)
}

// The process is killed three times while eight callers seal. Every envelope that they received still opens afterwards.
func TestRestartAfterKill(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	client := i.client()
	var mu sync.Mutex
	var sealed [][]byte
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	s := i.launch()
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				envelope, err := client.Seal(context.Background(), binding(), sealer.NewSecret([]byte(plain)))
				if err == nil {
					mu.Lock()
					sealed = append(sealed, envelope.Bytes)
					mu.Unlock()
				} else if !errors.Is(err, sealer.ErrUnavailable) {
					t.Error(err)
					return
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(sealed)
	}
	for range 3 {
		before := count()
		require.Eventually(t, func() bool { return count() > before+20 }, patience, often)
		require.NoError(t, s.cmd.Process.Kill())
		require.Error(t, s.cmd.Wait())
		require.FileExists(t, i.path("api.sock"), "nobody took it away")
		s = i.launch()
	}
	stop.Store(true)
	wg.Wait()
	for _, envelope := range sealed {
		requireOpens(t, client, envelope)
	}
}

func TestSocketOfARunningServiceIsKept(t *testing.T) {
	i := install(t)
	i.create()
	i.launch()
	got := i.run(nil, "serve", "--lock-memory", "off")
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stderr, "is taken, perhaps by another secrets-svc")
	mustSeal(t, i.client())
}

func TestFileInPlaceOfTheSocketIsKept(t *testing.T) {
	i := install(t)
	i.create()
	require.NoError(t, os.WriteFile(i.path("api.sock"), []byte("mine"), 0o600))
	got := i.run(nil, "serve", "--lock-memory", "off")
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stderr, "is not a socket")
	require.Equal(t, "mine", i.read("api.sock"))
}

// The kernel identifies the peer, regardless of its headers: a process of another user has exactly that user's permissions.
func TestPeerOfAnotherUser(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	i := install(t)
	i.create()
	as, group := os.Geteuid(), strconv.Itoa(os.Getegid())
	if as == 0 {
		as, group = nobody, strconv.Itoa(nobody)
	}
	others := "clients:\n  - {name: other, uids: [" + strconv.Itoa(as) + "], namespace: main, may: [status]}\n"
	i.clients(others)
	i.launch("--socket-group", group)
	info, err := os.Stat(i.path("api.sock"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o660), info.Mode().Perm())

	curl := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "curl", append([]string{"--silent", "--unix-socket", i.path("api.sock"),
			"--header", "Content-Type: application/json"}, args...)...)
		cmd.Dir = "/"
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	require.Contains(t, curl("http://secrets-svc/v1/keks"), `"state":"primary"`)
	require.Contains(t, curl("http://secrets-svc/v1/seal", "--data", "{}", "--header", "X-Forwarded-User: 0"), "client-not-allowed")
	i.clients(strings.Replace(others, "["+strconv.Itoa(as)+"]", "["+strconv.Itoa(as+1)+"]", 1))
	require.Eventually(t, func() bool { return strings.Contains(curl("http://secrets-svc/v1/keks"), "client-not-allowed") }, patience, often)
}

func TestUnwritableAuditRefusesOpens(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.launch("--audit-log", "/dev/full")
	client := i.client()
	envelope := mustSeal(t, client)
	_, err := client.Open(t.Context(), binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
}

func TestAuditFileRotation(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.launch("--audit-log", i.path("opens.log"))
	client := i.client()
	envelope := mustSeal(t, client)
	requireOpens(t, client, envelope.Bytes)
	require.NoError(t, os.Rename(i.path("opens.log"), i.path("opens.log.1")))
	opens := 1
	require.Eventually(t, func() bool {
		requireOpens(t, client, envelope.Bytes)
		opens++
		_, err := os.Stat(i.path("opens.log"))
		return err == nil
	}, patience, often)
	lines := strings.Count(i.read("opens.log"), "\n") + strings.Count(i.read("opens.log.1"), "\n")
	require.Equal(t, opens, lines)
	info, err := os.Stat(i.path("opens.log"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestShutdownAnswersRequestsInFlight(t *testing.T) {
	i := install(t)
	i.create()
	s := i.launch()
	client := i.client()
	var failed atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				_, err := client.Seal(context.Background(), binding(), sealer.NewSecret([]byte(plain)))
				if err != nil && !errors.Is(err, sealer.ErrUnavailable) {
					failed.Add(1)
				}
			}
		})
	}
	mustSeal(t, client)
	s.stop()
	stop.Store(true)
	wg.Wait()
	require.Zero(t, failed.Load())
	require.NotContains(t, i.read("log"), "were cut")
}
