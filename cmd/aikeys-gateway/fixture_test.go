package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	// runsProgram is the variable that has the test's own executable run the gateway instead of tests.
	runsProgram = "RUN_AIKEYS_GATEWAY"
	// patience is how long a test waits for an expected event.
	patience = 20 * time.Second
	// callerToken is the API key of a caller, and providerSecret the provider key that serves it.
	callerToken, providerSecret = "ak_EXAMPLE_caller", "sk-EXAMPLE-EXAMPLE-0001"
	// lease is the control plane's, and margin what a busy machine may add to it.
	lease, margin = time.Second, 150 * time.Millisecond
)

// buildFolder receives the programs that tests build.
var buildFolder string

func TestMain(m *testing.M) {
	if os.Getenv(runsProgram) != "" {
		main()
	}
	var err error
	if buildFolder, err = os.MkdirTemp("", "aikeys-gateway-"); err != nil {
		panic(err)
	}
	code := modelstest.Main(m)
	_ = os.RemoveAll(buildFolder)
	os.Exit(code)
}

// process is a running aikeysd or aikeys-gateway.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	log     dataplanetest.Log
	exited  chan struct{}
	address struct {
		Msg, API, Dataplane, Ops, Gateway string
		ForwardAuth                       string `json:"forward_auth"`
		ExtAuthz                          string `json:"ext_authz"`
	}
}

// startProcess starts a program's "serve", which ends with the test, and returns once it listens.
func startProcess(t *testing.T, program string, environ []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, append([]string{"serve"}, args...)...), exited: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = environ, &p.log, &p.log
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	p.await("listening", func() bool {
		for line := range strings.Lines(p.log.String()) {
			if json.Unmarshal([]byte(line), &p.address) == nil && p.address.Msg == "listening" {
				return true
			}
		}
		return false
	})
	return p
}

func (p *process) await(what string, condition func() bool) {
	p.t.Helper()
	require.Eventually(p.t, condition, patience, 5*time.Millisecond, "never %s: %s", what, &p.log)
}

func (p *process) awaitReady() *process {
	p.t.Helper()
	p.await("ready", func() bool { return p.readyz().status == http.StatusOK })
	return p
}

func (p *process) readyz() reply { return get(p.t, p.address.Ops+"/readyz") }

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // it may have exited

// end sends a signal, waits until the process has exited, and returns its exit code.
func (p *process) end(s syscall.Signal) (code int) {
	p.t.Helper()
	p.signal(s)
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.Fail(p.t, "it did not exit", p.log.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// reply is a response that was read.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends a request with headers, given as names and values.
func send(client *http.Client, method, url string, body io.Reader, headers ...string) (reply, error) {
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		return reply{}, err
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	response, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(text)}, err
}

// ask sends a request that must be answered, over a connection of its own.
func ask(t *testing.T, method, url, body string, headers ...string) reply {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	got, err := send(client, method, url, strings.NewReader(body), headers...)
	require.NoError(t, err)
	return got
}

func get(t *testing.T, url string, headers ...string) reply {
	t.Helper()
	return ask(t, http.MethodGet, url, "", headers...)
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// gatewayEnviron returns the variables of a gateway that has a credential for a control plane.
func gatewayEnviron(t *testing.T, controlPlane, credential string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "edge.token")
	require.NoError(t, os.WriteFile(file, []byte(credential+"\n"), 0o600))
	return []string{
		runsProgram + "=1", "AIKEYS_GATEWAY_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_OPS_LISTEN=127.0.0.1:0",
		"AIKEYS_GATEWAY_CONTROL_PLANE=" + controlPlane, "AIKEYS_GATEWAY_TOKEN_FILE=" + file,
	}
}

// env is a provider, and a control plane in memory that has keys of the provider's for a caller.
type env struct {
	t        *testing.T
	provider *gatewaytest.Provider
	control  *dataplanetest.ControlPlane
	key      string // the id of the key for OpenAI
	environ  []string
}

func newEnv(t *testing.T, options ...gatewaytest.Option) *env {
	t.Helper()
	e := &env{t: t, provider: gatewaytest.StartProvider(t, append(options, gatewaytest.Accepting(providerSecret))...), control: dataplanetest.NewControlPlane(t)}
	e.environ = gatewayEnviron(t, e.control.URL(), dataplanetest.Token)
	e.control.AddCredential(callerToken, dataplanetest.Credential{})
	e.key = e.control.RegisterKey(dataplanetest.Key{Secret: providerSecret, BaseURL: e.provider.URL + "/v1"})
	e.control.RegisterKey(dataplanetest.Key{Provider: "anthropic", Secret: providerSecret, BaseURL: e.provider.URL, AuthStyle: "x_api_key"})
	return e
}

// start starts a gateway.
func (e *env) start(args ...string) *process {
	e.t.Helper()
	return startProcess(e.t, os.Args[0], e.environ, args...)
}

// models asks a gateway for the caller's models of OpenAI.
func (p *process) models() reply {
	return get(p.t, p.address.Gateway+"/openai/models", bearer(callerToken)...)
}

// buildControlPlane builds aikeysd, once, and returns its path.
var buildControlPlane = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildFolder, "aikeysd")
	cmd := exec.Command("go", "build", "-o", path, "../aikeysd")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, output)
	}
	return path, nil
})

// controlPlane is aikeysd in processes that share a database. Customer acme has the project chat, of which alice is the owner.
type controlPlane struct {
	t        *testing.T
	program  string
	environ  []string
	provider *gatewaytest.Provider
	alice    string // her API key
}

func newControlPlane(t *testing.T, database string) *controlPlane {
	t.Helper()
	program, err := buildControlPlane()
	require.NoError(t, err)
	c := &controlPlane{t: t, program: program, provider: gatewaytest.StartProvider(t, gatewaytest.WithoutRecords()), environ: []string{
		"AIKEYS_DATABASE_URL=" + database, "AIKEYS_SEALER=local:" + filepath.Join(t.TempDir(), "keyset.json"),
		"AIKEYS_RATE_LIMIT=0", "AIKEYS_FAILED_AUTH_LIMIT=0", "AIKEYS_LISTEN=127.0.0.1:0",
		"AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0", "AIKEYS_LOG_FORMAT=json",
	}}
	c.run("migrate up")
	c.run("admin member set --customer acme --project chat --user alice --role owner")
	c.alice = c.run("admin token create --customer acme --project chat --user alice")
	return c
}

// run runs a command of aikeysd and returns its output.
func (c *controlPlane) run(line string) string {
	c.t.Helper()
	cmd := exec.Command(c.program, strings.Fields(line)...)
	cmd.Env = c.environ[:1]
	printed, err := cmd.Output()
	require.NoError(c.t, err, "aikeysd %s", line)
	return strings.TrimSpace(string(printed))
}

// start starts a replica and returns once it is ready.
func (c *controlPlane) start(environ ...string) *process {
	c.t.Helper()
	return startProcess(c.t, c.program, append(environ, c.environ...)).awaitReady()
}

// register registers a key that the provider accepts for the project, at a replica, and returns its id.
func (c *controlPlane) register(replica *process) string {
	c.t.Helper()
	secret := fmt.Sprintf("sk-EXAMPLE-%d", time.Now().UnixNano())
	c.provider.Accept(secret)
	got := ask(c.t, http.MethodPost, replica.address.API+"/v1/aikeys", fmt.Sprintf(`{"provider":"openai","name":"key %s","secret":%q}`, secret[11:], secret),
		append(bearer(c.alice), "Content-Type", "application/json")...)
	require.Equal(c.t, http.StatusCreated, got.status, got.body)
	var answer struct{ Key struct{ ID string } }
	require.NoError(c.t, json.Unmarshal([]byte(got.body), &answer))
	return answer.Key.ID
}

// receipt is the receipt of a revocation, and when the control plane gave it.
type receipt struct {
	State        string
	DataPlanes   int       `json:"data_planes"`
	Acknowledged int       `json:"acknowledged"`
	CompleteBy   time.Time `json:"complete_by"`
	answered     time.Time
}

// revoke revokes a key at a replica, or asks for the receipt once more, and waits for it for at most the given time.
func (c *controlPlane) revoke(replica *process, key, wait string) receipt {
	c.t.Helper()
	got := ask(c.t, http.MethodDelete, replica.address.API+"/v1/aikeys/"+key+"?wait="+wait, "", bearer(c.alice)...)
	answer := struct{ Receipt receipt }{receipt{answered: time.Now()}}
	require.Equal(c.t, http.StatusOK, got.status, got.body)
	require.NoError(c.t, json.Unmarshal([]byte(got.body), &answer))
	return answer.Receipt
}

// probedGateway is a running gateway that is sent requests all the time, and what became of each.
type probedGateway struct {
	*process

	mu       sync.Mutex
	requests []request
}

// request is one of them.
type request struct {
	sent, done time.Time
	answer     string // the id of the key that served it, or the status, or the error
	served     bool
}

// startGateway starts a gateway with flags, and sends it requests of its callers in turn, or alice, until the test ends.
func (c *controlPlane) startGateway(url, flags string, callers ...string) *probedGateway {
	c.t.Helper()
	if len(callers) == 0 {
		callers = []string{c.alice}
	}
	edge := c.run(fmt.Sprintf("admin dataplane create --customer acme --name edge-%d", time.Now().UnixNano()))
	g := &probedGateway{process: startProcess(c.t, os.Args[0], gatewayEnviron(c.t, url, edge),
		append(strings.Fields(flags), "--upstream", "openai="+c.provider.URL+"/v1")...).awaitReady()}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	stop := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			sending.Go(func() {
				r := request{sent: time.Now()}
				got, err := send(client, http.MethodGet, g.address.Gateway+"/openai/models", nil, bearer(callers[i%len(callers)])...)
				r.served, r.done = got.status == http.StatusOK, time.Now()
				switch {
				case err != nil:
					r.answer = err.Error()
				case r.served:
					r.answer = got.header.Get("Agentrouter-Key-Id")
				default:
					r.answer = http.StatusText(got.status)
				}
				g.mu.Lock()
				defer g.mu.Unlock()
				g.requests = append(g.requests, r)
			})
		}
	})
	c.t.Cleanup(func() {
		close(stop)
		sending.Wait()
		client.CloseIdleConnections()
	})
	return g
}

// awaitAnswer waits until a request that is sent from now on has an answer.
func (g *probedGateway) awaitAnswer(answer string) {
	g.t.Helper()
	from := time.Now()
	g.await("answered with "+answer, func() bool {
		return slices.ContainsFunc(g.sentFrom(from), func(r request) bool { return r.answer == answer })
	})
}

// sentFrom returns the requests that were sent at a time or later and have ended.
func (g *probedGateway) sentFrom(from time.Time) []request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.requests), func(r request) bool { return r.sent.Before(from) })
}

// requireNone fails the test if a key has served a request that was sent at a time or later.
func (g *probedGateway) requireNone(key string, from time.Time) {
	g.t.Helper()
	for _, r := range g.sentFrom(from) {
		require.NotEqual(g.t, key, r.answer, "sent %v after no request might get the key", r.sent.Sub(from))
	}
}

// requireAll fails the test unless all requests that were sent and answered between two times were served, or all refused.
func (g *probedGateway) requireAll(served bool, from, to time.Time) {
	g.t.Helper()
	requests := slices.DeleteFunc(g.sentFrom(from), func(r request) bool { return r.done.After(to) })
	require.NotEmpty(g.t, requests)
	for _, r := range requests {
		require.Equal(g.t, served, r.served, "%s, sent after %v", r.answer, r.sent.Sub(from))
	}
}
