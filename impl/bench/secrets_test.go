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

// bareSealer is the folder of a bareSealer server; callers is how many ask at once.
const (
	bareSealer = "AIKEYS_BENCH_BARE_SEALER"
	callers    = 16
)

// serveBareSealer is the least that an Echo server can do to seal and open in its own process: no validation,
// no authentication, no audit, no limits, no zeroed memory. It speaks the protocol of sealer/remote.
func serveBareSealer(dir string) error {
	backend, err := local.Open(filepath.Join(dir, "keyset.json"))
	if err != nil {
		return err
	}
	type binding struct {
		Customer string `json:"customer_id"`
		Project  string `json:"project_id"`
		Key      string `json:"key_id"`
		Provider string `json:"provider"`
		Version  uint32 `json:"version"`
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	bound := func(b binding) sealer.Binding {
		return sealer.Binding{CustomerID: b.Customer, ProjectID: b.Project, KeyID: b.Key, Provider: b.Provider, Version: b.Version}
	}
	e.POST("/v1/seal", func(c echo.Context) error {
		var body struct {
			Binding binding `json:"binding"`
			Secret  []byte  `json:"secret"`
		}
		if err := c.Bind(&body); err != nil {
			return err
		}
		envelope, err := backend.Seal(c.Request().Context(), bound(body.Binding), sealer.NewSecret(body.Secret))
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, map[string]any{"kek_id": envelope.KEKID, "envelope": envelope.Bytes})
	})
	e.POST("/v1/open", func(c echo.Context) error {
		var body struct {
			Binding  binding `json:"binding"`
			Envelope []byte  `json:"envelope"`
		}
		if err := c.Bind(&body); err != nil {
			return err
		}
		secret, err := backend.Open(c.Request().Context(), bound(body.Binding), body.Envelope)
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, map[string][]byte{"secret": secret.Reveal()})
	})
	socket, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		return err
	}
	e.Listener = socket
	return e.Start("")
}

// socketDir is a folder for sockets, whose paths have at most 108 bytes.
func socketDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // see above
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	return dir
}

// startBareSealer returns its client.
func startBareSealer(b *testing.B) *remote.Sealer {
	b.Helper()
	dir := socketDir(b)
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{bareSealer + "=" + dir, "GOGC=400"}
	launch(b, cmd)
	return awaitSealer(b, filepath.Join(dir, "api.sock"))
}

// startSecrets starts secrets-svc, and returns the path of its socket.
func startSecrets(b *testing.B) (socket string) {
	b.Helper()
	dir := socketDir(b)
	socket = filepath.Join(dir, "api.sock")
	_, err := local.AddKEK(filepath.Join(dir, "bench.json"))
	require.NoError(b, err)
	clients := fmt.Sprintf("clients: [{name: bench, uids: [%d], namespace: bench, may: [seal, open, rewrap, status]}]\n", os.Geteuid())
	require.NoError(b, os.WriteFile(filepath.Join(dir, "clients.yaml"), []byte(clients), 0o600))
	cmd := exec.Command(filepath.Join(filepath.Dir(binary), "secrets-svc"), "serve", "--listen", "unix:"+socket,
		"--ops-listen", freeAddr(b), "--keys", dir, "--clients", filepath.Join(dir, "clients.yaml"),
		"--audit-log", filepath.Join(dir, "audit.log"), "--log-level", "warn")
	cmd.Env = []string{"HOME=" + os.Getenv("HOME")}
	launch(b, cmd)
	awaitSealer(b, socket)
	return socket
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

func keyBinding() sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: idPrefix + "000001", Provider: "openai", Version: 1}
}

// crowd calls a function repeatedly from concurrent callers and returns the calls per second.
func crowd(b *testing.B, d time.Duration, do func() error) float64 {
	b.Helper()
	began := time.Now()
	counts := make([]int, callers)
	errs := make([]error, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for time.Since(began) < d && errs[i] == nil {
				errs[i] = do()
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

// BenchmarkSecretsSeal: a seal through secrets-svc over a unix socket, of one by a bare Echo handler that seals in its own
// process, with the same client and 16 callers. secrets-svc also authenticates the client, validates the request, and zeroes memory.
func BenchmarkSecretsSeal(b *testing.B) {
	bare, service := startBareSealer(b), awaitSealer(b, startSecrets(b))
	seal := func(s *remote.Sealer) func(time.Duration) float64 {
		return func(d time.Duration) float64 {
			return crowd(b, d, func() error {
				_, err := s.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte("sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE")))
				return err
			})
		}
	}
	compare(b, "of-in-process", seal(bare), seal(service))
}

// BenchmarkSecretsOpen: an open, likewise. secrets-svc writes each one to its audit log before it answers.
func BenchmarkSecretsOpen(b *testing.B) {
	bare, service := startBareSealer(b), awaitSealer(b, startSecrets(b))
	open := func(s *remote.Sealer) func(time.Duration) float64 {
		envelope, err := s.Seal(context.Background(), keyBinding(), sealer.NewSecret([]byte("sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE")))
		require.NoError(b, err)
		return func(d time.Duration) float64 {
			return crowd(b, d, func() error {
				secret, err := s.Open(context.Background(), keyBinding(), envelope.Bytes)
				secret.Wipe()
				return err
			})
		}
	}
	compare(b, "of-in-process", open(bare), open(service))
}

// BenchmarkSecretsRegister: a register over HTTP with secrets-svc behind, of one with a keyset in the same process. Both
// serve one PostgreSQL.
func BenchmarkSecretsRegister(b *testing.B) {
	database, projects := postgres(b, keyCount)
	keyset := filepath.Join(b.TempDir(), "keyset.json")
	inProcess := startReplica(b, database, keyset)
	split := startSealing(b, database, "secrets+unix:"+startSecrets(b), "--sealer-old", "local:"+keyset) // which opens the canary
	compare(b, "of-in-process",
		func(d time.Duration) float64 { return wrk(b, inProcess.url, registerScript(projects), d) },
		func(d time.Duration) float64 { return wrk(b, split.url, registerScript(projects), d) })
}
