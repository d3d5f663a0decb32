package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

func TestSetupFromScratch(t *testing.T) {
	t.Parallel()
	i := install(t)
	got := i.run(nil, "check")
	require.Equal(t, cli.ExitFailure, got.Code)
	require.Contains(t, got.Stdout, "namespace main  FAILED")

	id := i.create()
	require.Regexp(t, `^local:[0-9a-f]{8}$`, id)
	require.Contains(t, i.must("check"), "primary "+id+"; 0 enabled, 0 retired")

	s := i.launch()
	client := i.client()
	envelope := sealertest.MustSeal(t, client)
	require.Equal(t, id, envelope.KEKID)
	sealertest.RequireOpens(t, client, envelope.Bytes)
	s.AwaitLog(`"outcome":"opened"`)

	require.Equal(t, http.StatusOK, programtest.Send(http.MethodGet, s.URL("ops")+"/healthz", "", "").Status)
	require.Equal(t, http.StatusOK, s.Readyz().Status)
	require.JSONEq(t, `{"ready": true, "checks": {"service": "ok", "keysets": "ok"}}`, s.Readyz().Body)
	body := programtest.Send(http.MethodGet, s.URL("ops")+"/metrics", "", "").Body
	require.Contains(t, body, `secrets_svc_operations_total{client="tests",operation="openEnvelope",outcome="ok"} 1`)
	require.Contains(t, body, `secrets_svc_keyset_readable{namespace="main"} 1`)

	info, err := os.Stat(i.path("api.sock"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Zero(t, s.Stop())
	require.Contains(t, s.Stderr.String(), `"msg":"stopped"`)
	require.NoFileExists(t, i.path("api.sock"))
}

func TestNamespaceWorksOnceItHasAKeyset(t *testing.T) {
	t.Parallel()
	i := install(t)
	s := i.launch()
	require.Equal(t, http.StatusServiceUnavailable, s.Readyz().Status)
	client := i.client()
	_, err := client.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.NoDirExists(t, i.path("keys"), "a service makes no keyset")
	s.AwaitLog("a namespace has no usable keyset")

	i.create()
	sealertest.RequireOpens(t, client, sealertest.MustSeal(t, client).Bytes)
	require.Equal(t, http.StatusOK, s.Readyz().Status)
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
				envelope, err := client.Seal(context.Background(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
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
		s.End(syscall.SIGKILL)
		require.FileExists(t, i.path("api.sock"), "nobody took it away")
		s = i.launch()
	}
	stop.Store(true)
	wg.Wait()
	for _, envelope := range sealed {
		sealertest.RequireOpens(t, client, envelope)
	}
}

func TestSocketOfARunningServiceIsKept(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.launch()
	got := i.run(nil, "serve", "--lock-memory", "off")
	require.Equal(t, cli.ExitFailure, got.Code)
	require.Contains(t, got.Stderr, "is taken, perhaps by another secrets-svc")
	sealertest.MustSeal(t, i.client())
}

func TestFileInPlaceOfTheSocketIsKept(t *testing.T) {
	i := install(t)
	i.create()
	require.NoError(t, os.WriteFile(i.path("api.sock"), []byte("mine"), 0o600))
	got := i.run(nil, "serve", "--lock-memory", "off")
	require.Equal(t, cli.ExitFailure, got.Code)
	require.Contains(t, got.Stderr, "is not a socket")
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
	envelope := sealertest.MustSeal(t, client)
	_, err := client.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
}

func TestAuditFileRotation(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.launch("--audit-log", i.path("opens.log"))
	client := i.client()
	envelope := sealertest.MustSeal(t, client)
	sealertest.RequireOpens(t, client, envelope.Bytes)
	require.NoError(t, os.Rename(i.path("opens.log"), i.path("opens.log.1")))
	opens := 1
	require.Eventually(t, func() bool {
		sealertest.RequireOpens(t, client, envelope.Bytes)
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
	t.Parallel()
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
				_, err := client.Seal(context.Background(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
				if err != nil && !errors.Is(err, sealer.ErrUnavailable) {
					failed.Add(1)
				}
			}
		})
	}
	sealertest.MustSeal(t, client)
	require.Zero(t, s.Stop())
	stop.Store(true)
	wg.Wait()
	require.Zero(t, failed.Load())
	require.NotContains(t, s.Stderr.String(), "were cut")
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	i := install(t)
	i.create()
	i.clients(`clients:
  - {name: aikeysd, certificates: ["dns:aikeysd.internal"], namespace: main, may: [seal, open, status]}
  - {name: rewrap, certificates: ["uri:spiffe://acme/rewrap", "cn:Re-wrap"], namespace: main, may: [rewrap, status]}
`)
	// issue writes a certificate for clients and services, and its key, into a folder.
	issue := func(by *tlsfilestest.Authority, folder string, change func(*x509.Certificate)) tlsfilestest.Certificate {
		require.NoError(t, os.MkdirAll(i.path(folder), 0o700))
		return by.Issue(t, i.path(folder), func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
			change(c)
		})
	}
	clients, services := tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
	own := issue(services, "server", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	s := i.launch("--listen", "127.0.0.1:0", "--tls-cert", own.CertFile, "--tls-key", own.KeyFile,
		"--tls-client-ca", clients.Write(t, i.path("clients-ca.crt")))
	server := s.URL("api")
	serverCA := services.Write(t, i.path("server-ca.crt"))
	newClient := func(t *testing.T, own tlsfilestest.Certificate) *remote.Sealer {
		client, err := remote.New(remote.Config{URL: server, CertFile: own.CertFile, KeyFile: own.KeyFile, CAFile: serverCA})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, client.Close()) })
		return client
	}
	// keks asks for the KEKs with a certificate or without; status 0 means no response.
	keks := func(own tlsfilestest.Certificate) (status int) {
		pool := x509.NewCertPool()
		require.True(t, pool.AppendCertsFromPEM([]byte(i.read("server-ca.crt"))))
		settings := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
		if own.CertFile != "" {
			settings.GetClientCertificate = own.Show(t)
		}
		transport := &http.Transport{TLSClientConfig: settings}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/v1/keks", http.NoBody)
		require.NoError(t, err)
		reply, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return 0
		}
		require.NoError(t, reply.Body.Close())
		return reply.StatusCode
	}
	t.Run("a client that is listed does what it may", func(t *testing.T) {
		client := newClient(t, issue(clients, "aikeysd", tlsfilestest.Named("aikeysd.internal")))
		envelope := sealertest.MustSeal(t, client)
		sealertest.RequireOpens(t, client, envelope.Bytes)
		s.AwaitLog(`"outcome":"opened"`)
		require.Contains(t, s.Stdout.String(), `"client":"aikeysd"`)
		_, err := client.Rewrap(t.Context(), sealertest.Binding(), envelope.Bytes)
		require.Error(t, err)
	})
	for name, tc := range map[string]struct {
		by     *tlsfilestest.Authority
		change func(*x509.Certificate)
		status int
	}{
		"a URI is a name":         {clients, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/rewrap"}} }, 200},
		"a common name is one":    {clients, func(c *x509.Certificate) { c.Subject.CommonName = "Re-wrap" }, 200},
		"but of its own kind":     {clients, func(c *x509.Certificate) { c.Subject.CommonName = "aikeysd.internal" }, 403},
		"a name that is no one's": {clients, tlsfilestest.Named("other.internal"), 403},
		"names of two clients":    {clients, func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = []string{"aikeysd.internal"}, "Re-wrap" }, 403},
		"no name":                 {clients, func(*x509.Certificate) {}, 403},
		"another authority's":     {tlsfilestest.NewAuthority(t), tlsfilestest.Named("aikeysd.internal"), 0},
		"expired certificate": {clients, func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.NotAfter = time.Now().Add(-time.Minute)
		}, 0},
		"not yet valid certificate": {clients, func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.NotBefore = time.Now().Add(time.Minute)
		}, 0},
		"server certificate": {clients, func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.ExtKeyUsage = c.ExtKeyUsage[1:]
		}, 0},
		"the service's own as one": {clients, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, 403},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.status, keks(issue(tc.by, "client", tc.change)))
		})
	}
	t.Run("no certificate", func(t *testing.T) { require.Zero(t, keks(tlsfilestest.Certificate{})) })
	t.Run("a refused client leaves a line that says why", func(t *testing.T) {
		require.Eventually(t, func() bool { return strings.Count(s.Stderr.String(), `"msg":"TLS handshake refused"`) == 5 }, patience, often)
		require.Contains(t, s.Stderr.String(), `"cause":"the client's certificate `)
	})
	t.Run("there is no plain HTTP", func(t *testing.T) {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(server, "https://"))
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		_, err = io.WriteString(conn, "GET /v1/keks HTTP/1.1\r\nHost: secrets-svc\r\n\r\n")
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(answer, []byte("HTTP/1.0 400")), "%s", answer)
	})
	t.Run("a certificate that expires on an open connection", func(t *testing.T) {
		client := newClient(t, issue(clients, "brief", func(c *x509.Certificate) {
			tlsfilestest.Named("aikeysd.internal")(c)
			c.NotAfter = time.Now().Add(3 * time.Second)
		}))
		_, err := client.KEKs(t.Context())
		require.NoError(t, err)
		refused := strings.Count(s.Stderr.String(), `"status":403`)
		require.Eventually(t, func() bool {
			_, err := client.KEKs(t.Context())
			return err != nil
		}, patience, often)
		s.Await("the refusal", func() bool { return strings.Count(s.Stderr.String(), `"status":403`) > refused })
	})
	t.Run("another authority is trusted once the file names it", func(t *testing.T) {
		next := tlsfilestest.NewAuthority(t)
		own := issue(next, "next", tlsfilestest.Named("aikeysd.internal"))
		require.Zero(t, keks(own))
		next.Write(t, i.path("clients-ca.crt"))
		require.Eventually(t, func() bool { return keks(own) == http.StatusOK }, patience, often)
		require.Zero(t, keks(issue(clients, "aikeysd", tlsfilestest.Named("aikeysd.internal"))), "and the one before no longer")
	})
}

const (
	childVariable   = "TEST_AS_SECRETS_SVC" // makes the test binary be the program, as a process of its own
	patience, often = programtest.Patience, 20 * time.Millisecond
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(run(cli.UntilSignal(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "4") // most tests wait for other processes
	os.Exit(m.Run())
}

// installation is a folder with what a service needs.
type installation struct {
	t   *testing.T
	dir string
	pid int // of the process that was launched last
}

// install makes a folder with a clients file and without keys. The user of this process may do everything in the
// namespace main. The folder's path is short, because a socket's path has to be.
func install(t *testing.T) *installation {
	t.Helper()
	dir, err := os.MkdirTemp("", "svc") //nolint:usetesting // a socket's path has at most 104 bytes
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755)) // other users connect to the socket in it
	i := &installation{t: t, dir: dir}
	i.clients(fmt.Sprintf("clients:\n  - {name: tests, uids: [%d], namespace: main, may: [seal, open, rewrap, status]}\n", os.Geteuid()))
	return i
}

func (i *installation) path(name string) string { return filepath.Join(i.dir, name) }

func (i *installation) clients(text string) {
	i.t.Helper()
	require.NoError(i.t, os.WriteFile(i.path("clients.yaml"), []byte(text), 0o600))
}

func (i *installation) environ() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "SECRETS_SVC_LISTEN=unix:" + i.path("api.sock"), "SECRETS_SVC_OPS_LISTEN=127.0.0.1:0",
		"SECRETS_SVC_CLIENTS=" + i.path("clients.yaml"), "SECRETS_SVC_KEYS=" + i.path("keys"),
		"SECRETS_SVC_LOG_LEVEL=debug",
	}
}

// run runs a command in this process; entries of environ win over the installation's.
func (i *installation) run(environ []string, args ...string) programtest.Outcome {
	i.t.Helper()
	return programtest.Program(run).Run(i.t, slices.Concat(i.environ(), environ), args...)
}

// must runs a command that must succeed, and returns its output.
func (i *installation) must(args ...string) string {
	i.t.Helper()
	got := i.run(nil, args...)
	require.Equal(i.t, cli.ExitOK, got.Code, "%v: %s", args, got.Stderr)
	return strings.TrimSpace(got.Stdout)
}

// create makes a key in the namespace main.
func (i *installation) create() string {
	i.t.Helper()
	return i.must("keys", "create", "--namespace", "main")
}

// launch starts the service as a process of its own, and returns once it listens.
func (i *installation) launch(args ...string) *programtest.Process {
	i.t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"serve"}, args...)...)
	cmd.Env = append(i.environ(), childVariable+"=1")
	s := programtest.Launch(i.t, cmd)
	i.pid = cmd.Process.Pid
	s.AwaitLog("listening")
	return s
}

func (i *installation) read(name string) string {
	i.t.Helper()
	text, err := os.ReadFile(i.path(name))
	require.NoError(i.t, err)
	return string(text)
}

// client returns a sealer that asks the service over its socket.
func (i *installation) client() *remote.Sealer {
	i.t.Helper()
	client, err := remote.New(remote.Config{Socket: i.path("api.sock")})
	require.NoError(i.t, err)
	i.t.Cleanup(func() { require.NoError(i.t, client.Close()) })
	return client
}

// The program that holds the key-encryption keys must link no database driver, no ORM, and no code of sessions. Package
// database/sql itself comes with the metrics, and does nothing without a driver; go-jose comes with the client of OpenBao.
func TestNoDatabaseIsLinked(t *testing.T) {
	forbidden := regexp.MustCompile(`gorm|jackc/|sqlite|lib/pq|go-oidc|golang-jwt|/otlp` +
		`|^github\.com/agentrouter/aikeys/(models|impl/(auth|feed|aikeys|dataplane))(/|$)`)
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(out))
	require.Contains(t, packages, "github.com/agentrouter/aikeys/impl/secrets")
	for _, linked := range packages {
		require.False(t, forbidden.MatchString(linked), linked)
	}
	for _, example := range []string{
		"gorm.io/gorm", "github.com/jackc/pgx/v5", "modernc.org/sqlite", "github.com/agentrouter/aikeys/models",
		"github.com/agentrouter/aikeys/impl/auth", "github.com/agentrouter/aikeys/impl/feed", "go.opentelemetry.io/otel/exporters/otlp/otlptrace",
	} {
		require.True(t, forbidden.MatchString(example), example)
	}
}

// The keys move from the keyset file to OpenBao. Clients notice nothing but the new ids.
func TestKeysInOpenBao(t *testing.T) {
	t.Parallel()
	bao := vaulttest.Start(t)
	i := install(t)
	i.create()
	s := i.launch()
	client := i.client()
	old := sealertest.MustSeal(t, client)
	require.Zero(t, s.Stop())

	for _, name := range []string{"aikeys-main", "aikeys-other"} {
		bao.Call(t, http.MethodPost, "transit/keys/"+name, nil)
	}
	url := bao.URLWithToken(t, "aikeys-{namespace}", vaulttest.Policy(t, "aikeys-main"))
	s = i.launch("--sealer", url, "--sealer-old", "local")
	sealertest.RequireOpens(t, client, old.Bytes)
	moved, err := client.Rewrap(t.Context(), sealertest.Binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, "vault:transit/aikeys-main:v1", moved.KEKID)
	sealertest.RequireOpens(t, client, moved.Bytes)
	require.Zero(t, s.Stop())

	got := i.run([]string{"SECRETS_SVC_SEALER=" + url}, "check")
	require.Equal(t, cli.ExitOK, got.Code, got.Stdout)
	require.Contains(t, got.Stdout, "primary vault:transit/aikeys-main:v1; 0 enabled, 0 retired")
	s = i.launch("--sealer", url)
	sealertest.RequireOpens(t, client, moved.Bytes)
	_, err = client.Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	keks, err := client.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: moved.KEKID, State: sealer.KEKPrimary}}, keks)

	bao.Seal(t)
	_, err = client.Open(t.Context(), sealertest.Binding(), moved.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	body := programtest.Send(http.MethodGet, s.URL("ops")+"/metrics", "", "").Body
	require.Contains(t, body, `secrets_svc_keyset_readable{namespace="main"} 0`)
	bao.Unseal(t)
	require.Eventually(t, func() bool {
		_, err := client.Open(t.Context(), sealertest.Binding(), moved.Bytes)
		return err == nil
	}, patience, often)

	// Each namespace has a key of its own, and the token's policy names one.
	i.clients(strings.ReplaceAll(i.read("clients.yaml"), "main", "other"))
	require.Eventually(t, func() bool {
		_, err := client.Open(t.Context(), sealertest.Binding(), moved.Bytes)
		return err != nil
	}, patience, often)
	got = i.run([]string{"SECRETS_SVC_SEALER=" + url}, "check")
	require.Equal(t, cli.ExitFailure, got.Code)
	require.Contains(t, got.Stdout, "its policy have read on transit/keys/aikeys-other")
}
