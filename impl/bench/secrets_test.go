package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
)

// BenchmarkSecretsSeal: a seal through secrets-svc over a unix socket, of one by a bare Echo handler that seals in its own
// process, with the same client and 16 callers. secrets-svc also authenticates the client, validates the request, and zeroes memory.
func BenchmarkSecretsSeal(b *testing.B) {
	if dir := os.Getenv(envBareSealer); dir != "" {
		// This is the process to compare with, the least that an Echo server can do to seal and open: no validation, no
		// authentication, no audit, no limits, no zeroed memory. It speaks the protocol of sealer/remote.
		backend, err := local.Open(filepath.Join(dir, "keyset.json"))
		require.NoError(b, err)
		type body struct {
			Binding struct {
				CustomerID string `json:"customer_id"`
				ProjectID  string `json:"project_id"`
				KeyID      string `json:"key_id"`
				Provider   string `json:"provider"`
				Version    uint32 `json:"version"`
			} `json:"binding"`
			Secret   []byte `json:"secret"`
			Envelope []byte `json:"envelope"`
		}
		e := echo.New()
		e.HideBanner, e.HidePort = true, true
		e.POST("/v1/seal", func(c echo.Context) error {
			var request body
			if err := c.Bind(&request); err != nil {
				return err
			}
			envelope, err := backend.Seal(c.Request().Context(), sealer.Binding(request.Binding), sealer.NewSecret(request.Secret))
			if err != nil {
				return err
			}
			return c.JSON(http.StatusOK, map[string]any{"kek_id": envelope.KEKID, "envelope": envelope.Bytes})
		})
		e.POST("/v1/open", func(c echo.Context) error {
			var request body
			if err := c.Bind(&request); err != nil {
				return err
			}
			secret, err := backend.Open(c.Request().Context(), sealer.Binding(request.Binding), request.Envelope)
			if err != nil {
				return err
			}
			return c.JSON(http.StatusOK, map[string][]byte{"secret": secret.Reveal()})
		})
		e.Listener, err = net.Listen("unix", filepath.Join(dir, "api.sock"))
		require.NoError(b, err)
		require.NoError(b, e.Start("")) // until the process is ended
	}
	compareSealers(b, func(s *remote.Sealer, _ []byte) error {
		_, err := s.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte(keySecret)))
		return err
	})
}

// BenchmarkSecretsOpen: an open, likewise. secrets-svc writes each one to its audit log before it answers.
func BenchmarkSecretsOpen(b *testing.B) {
	compareSealers(b, func(s *remote.Sealer, envelope []byte) error {
		secret, err := s.Open(context.Background(), keyBinding(), envelope)
		secret.Wipe()
		return err
	})
}

// BenchmarkSecretsRegister: a register over HTTP with secrets-svc behind, of one with a keyset in the same process. Both
// serve one PostgreSQL.
func BenchmarkSecretsRegister(b *testing.B) {
	database, tokens := postgres(b, keyCount)
	keyset := filepath.Join(b.TempDir(), "keyset.json")
	inProcess := startAikeysd(b, database, "--sealer", "local:"+keyset)
	split := startAikeysd(b, database, "--sealer", "secrets+unix:"+startSecrets(b), "--sealer-old", "local:"+keyset) // which opens the canary
	compare(b, "of-in-process",
		func(d time.Duration) float64 { return wrk(b, inProcess.url, registerScript(tokens), d) },
		func(d time.Duration) float64 { return wrk(b, split.url, registerScript(tokens), d) })
}

// envBareSealer is the variable with the folder of a bare sealer.
const envBareSealer = "AIKEYS_BENCH_BARE_SEALER"

const keySecret = "sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"

func keyBinding() sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: idPrefix + "000001", Provider: "openai", Version: 1}
}

// compareSealers compares secrets-svc with a bare sealer: how often 16 callers at once can make a call, with an envelope that
// its sealer has sealed.
func compareSealers(b *testing.B, call func(s *remote.Sealer, envelope []byte) error) {
	b.Helper()
	const callers = 16
	dir := socketDir(b)
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkSecretsSeal$")
	cmd.Env = []string{envBareSealer + "=" + dir, "GOGC=400"}
	launch(b, cmd)
	rate := func(s *remote.Sealer) func(time.Duration) float64 {
		envelope, err := s.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte(keySecret)))
		require.NoError(b, err)
		return func(d time.Duration) float64 {
			began, counts, errs := time.Now(), make([]int, callers), make([]error, callers)
			var group sync.WaitGroup
			for i := range callers {
				group.Go(func() {
					for time.Since(began) < d && errs[i] == nil {
						errs[i] = call(s, envelope.Bytes)
						counts[i]++
					}
				})
			}
			group.Wait()
			took, total := time.Since(began).Seconds(), 0
			for i := range callers {
				require.NoError(b, errs[i])
				total += counts[i]
			}
			return float64(total) / took
		}
	}
	compare(b, "of-in-process", rate(awaitSealer(b, filepath.Join(dir, "api.sock"))), rate(awaitSealer(b, startSecrets(b))))
}

// startSecrets starts secrets-svc, and returns the path of its socket.
func startSecrets(b *testing.B) (socket string) {
	b.Helper()
	dir := socketDir(b)
	socket = filepath.Join(dir, "api.sock")
	_, err := local.AddKEK(filepath.Join(dir, "bench.json"))
	require.NoError(b, err)
	clients := fmt.Appendf(nil, "clients: [{name: bench, uids: [%d], namespace: bench, may: [seal, open, rewrap, status]}]\n", os.Geteuid())
	require.NoError(b, os.WriteFile(filepath.Join(dir, "clients.yaml"), clients, 0o600))
	cmd := exec.Command(filepath.Join(filepath.Dir(binary), "secrets-svc"), "serve", "--listen", "unix:"+socket,
		"--ops-listen", "127.0.0.1:0", "--keys", dir, "--clients", filepath.Join(dir, "clients.yaml"),
		"--audit-log", filepath.Join(dir, "audit.log"), "--log-level", "warn")
	cmd.Env = []string{"HOME=" + os.Getenv("HOME")}
	launch(b, cmd)
	awaitSealer(b, socket)
	return socket
}

// socketDir is a folder for sockets, whose paths have at most 108 bytes.
func socketDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // see above
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	return dir
}

// awaitSealer returns a client, once the service answers it.
func awaitSealer(b *testing.B, socket string) *remote.Sealer {
	b.Helper()
	client, err := remote.New(remote.Config{Socket: socket})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, client.Close()) })
	require.Eventually(b, func() bool {
		_, err := client.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte("x")))
		return err == nil
	}, 20*time.Second, 5*time.Millisecond)
	return client
}
