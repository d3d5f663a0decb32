package main

import (
	"bytes"
	"cmp"
	"context"
	"strconv"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	pub "github.com/agentrouter/aikeys/gen/aikeys"

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
	gendp "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	// runsProgram is the variable that has the test's own executable run the gateway instead of tests.
	runsProgram = "RUN_AIKEYS_GATEWAY"
	// patience is how long a test waits for an expected event.
	patience = 20 * time.Second
	// callerToken is the API key of a caller, and providerSecret the provider key that serves it.
	callerToken, providerSecret = "ak_EXAMPLE_caller", "sk-EXAMPLE-EXAMPLE-0001"
	// unavailable is the answer to requests that nothing decides.
	unavailable = "Service Unavailable"
	// lease is the control plane's, and margin what a busy machine may add to it.
	lease, margin = time.Second, 150 * time.Millisecond
)

// aikeysd is the path of the control plane's program, which TestMain builds.
var aikeysd string

func TestMain(m *testing.M) {
	if os.Getenv(runsProgram) != "" {
		main()
	}
	folder, err := os.MkdirTemp("", "aikeys-gateway-")
	if err != nil {
		panic(err)
	}
	aikeysd = filepath.Join(folder, "aikeysd")
	build := exec.Command("go", "build", "-o", aikeysd, "../aikeysd")
	build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if output, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, output))
	}
	code := modelstest.Main(m)
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

// process is a running program.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	log     dataplanetest.Log
	exited  chan struct{}
	address struct {
		Msg, API, Dataplane, Ops, Gateway string
		ForwardAuth                       string `json:"forward_auth"`
		ExtAuthz                          string `json:"ext_authz"`
		Agent                             string
	}
}

// launch starts a program, which ends with the test.
func launch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	require.NoError(t, cmd.Start())
	go func() {
		defer close(p.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// startProcess starts "serve" of one of our programs and returns once it listens.
func startProcess(t *testing.T, program string, environ []string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(program, append([]string{"serve"}, args...)...)
	cmd.Env = environ
	return launch(t, cmd).awaitListening()
}

// awaitListening returns once one of our programs listens.
func (p *process) awaitListening() *process {
	p.t.Helper()
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

// awaitLog waits until the program has logged a text, which takes its way through a pipe and may come after an answer.
func (p *process) awaitLog(text string) {
	p.t.Helper()
	p.await("logged "+text, func() bool { return strings.Contains(p.log.String(), text) })
}

func (p *process) awaitReady() *process {
	p.t.Helper()
	p.await("ready", func() bool { return p.readyz().status == http.StatusOK })
	return p
}

func (p *process) readyz() reply { return send(http.MethodGet, p.address.Ops+"/readyz", "", "") }

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

// reply is a response that was read. Without one, the status is 0 and the body the error.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends a request with a bearer token, unless that is empty, and further headers, given as names and values.
func send(method, url, token, body string, headers ...string) reply {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return reply{body: err.Error()}
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return reply{body: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return reply{body: err.Error()}
	}
	return reply{response.StatusCode, response.Header, string(text)}
}

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
	e.control.RegisterKey(dataplanetest.Key{
		Provider: "gemini", Secret: providerSecret, BaseURL: e.provider.URL + "/v1beta", AuthStyle: "x_goog_api_key",
		Routes: []gendp.Route{
			{Path: "/v1", AuthStyle: "x_goog_api_key"}, {Path: "/v1alpha", AuthStyle: "x_goog_api_key"}, {Path: "/upload", AuthStyle: "x_goog_api_key"},
			{Path: "/ws", AuthStyle: "x_goog_api_key"}, {Path: "/v1beta/openai", AuthStyle: "bearer"},
		},
	})
	return e
}

// start starts a gateway.
func (e *env) start(args ...string) *process {
	e.t.Helper()
	return startProcess(e.t, os.Args[0], e.environ, args...)
}

// startForProxies starts a gateway that answers other proxies on unix sockets.
func (e *env) startForProxies(args ...string) *process {
	e.t.Helper()
	dir, err := os.MkdirTemp("", "gw-") // t.TempDir may be too long for a socket's path
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return e.start(append(args, "--forward-auth-listen", "unix:"+dir+"/f.sock", "--ext-authz-listen", "unix:"+dir+"/e.sock")...).awaitReady()
}

// models asks a gateway for the caller's models of OpenAI.
func (p *process) models() reply {
	return send(http.MethodGet, p.address.Gateway+"/openai/models", callerToken, "")
}

// controlPlane is aikeysd in processes that share a database. Customer acme has the project chat, of which alice is the owner.
type controlPlane struct {
	t        *testing.T
	environ  []string
	provider *gatewaytest.Provider
	alice    string // her API key
}

func newControlPlane(t *testing.T, database string) *controlPlane {
	t.Helper()
	c := &controlPlane{t: t, provider: gatewaytest.StartProvider(t, gatewaytest.WithoutRecords()), environ: []string{
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
	cmd := exec.Command(aikeysd, strings.Fields(line)...)
	cmd.Env = c.environ[:1]
	printed, err := cmd.Output()
	require.NoError(c.t, err, "aikeysd %s", line)
	return strings.TrimSpace(string(printed))
}

// start starts a replica and returns once it is ready.
func (c *controlPlane) start(environ ...string) *process {
	c.t.Helper()
	return startProcess(c.t, aikeysd, append(environ, c.environ...)).awaitReady()
}

// call sends a request about keys to a replica, as alice.
func (c *controlPlane) call(replica *process, method, path, body string) (answer struct {
	Key     pub.Key
	Receipt pub.Receipt
}) {
	c.t.Helper()
	got := send(method, replica.address.API+"/v1/aikeys"+path, c.alice, body, "Content-Type", "application/json")
	require.Less(c.t, got.status, http.StatusMultipleChoices, got.body)
	require.NoError(c.t, json.Unmarshal([]byte(got.body), &answer), got.body)
	return answer
}

// register registers a key that the provider accepts, and returns its id.
func (c *controlPlane) register(replica *process) string {
	c.t.Helper()
	name := strconv.FormatInt(time.Now().UnixNano(), 10)
	c.provider.Accept("sk-EXAMPLE-" + name)
	return c.call(replica, http.MethodPost, "", fmt.Sprintf(`{"provider":"openai","name":"key %s","secret":"sk-EXAMPLE-%[1]s"}`, name)).Key.ID
}

// projectPath is the path of the project of a caller's session.
const projectPath = "/v1/customers/-/projects/-"

// addBob makes bob a member with a provider key of his own. It returns his API key and the id of that provider key.
func (c *controlPlane) addBob(replica *process) (token, own string) {
	c.t.Helper()
	c.run("admin member set --customer acme --project chat --user bob --role member")
	asBob := *c
	asBob.alice = c.run("admin token create --customer acme --project chat --user bob")
	key := asBob.call(replica, http.MethodPost, "", `{"provider":"groq","name":"own","secret":"gsk_`+strings.Repeat("EXAMPLE", 8)+`","user_scope":true}`).Key
	return asBob.alice, key.ID
}

// revoke revokes a key, or asks for the receipt once more, and waits for it for at most the given time.
func (c *controlPlane) revoke(replica *process, key, wait string) pub.Receipt {
	c.t.Helper()
	return c.call(replica, http.MethodDelete, "/"+key+"?wait="+wait, "").Receipt
}

// probedGateway is a running gateway that is sent requests all the time, and what became of each.
type probedGateway struct {
	*process

	mu       sync.Mutex
	requests []request
}

type request struct {
	sent, done time.Time
	answer     string // the id of the key that served it, or why none did
}

// startGateway starts a gateway with flags, and sends it requests of its callers in turn, or alice, until the test ends.
func (c *controlPlane) startGateway(url, flags string, callers ...string) *probedGateway {
	c.t.Helper()
	edge := c.run(fmt.Sprintf("admin dataplane create --customer acme --name edge-%d", time.Now().UnixNano()))
	g := &probedGateway{process: startProcess(c.t, os.Args[0], gatewayEnviron(c.t, url, edge),
		append(strings.Fields(flags), "--upstream", "openai="+c.provider.URL+"/v1")...).awaitReady()}
	ctx, stop := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			time.Sleep(10 * time.Millisecond) // the interval of requests
			sending.Go(func() {
				sent, token := time.Now(), append(callers, c.alice)[i%max(1, len(callers))]
				got := send(http.MethodGet, g.address.Gateway+"/openai/models", token, "")
				answer := cmp.Or(got.header.Get("Agentrouter-Key-Id"), http.StatusText(got.status), got.body)
				g.mu.Lock()
				defer g.mu.Unlock()
				g.requests = append(g.requests, request{sent, time.Now(), answer})
			})
		}
	})
	c.t.Cleanup(func() {
		stop()
		sending.Wait()
	})
	return g
}

// answers returns the different answers to the requests that were sent and answered between two times.
func (g *probedGateway) answers(from, to time.Time) (all []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.requests {
		if !r.sent.Before(from) && !r.done.After(to) && !slices.Contains(all, r.answer) {
			all = append(all, r.answer)
		}
	}
	return all
}

// awaitAnswer waits until a request that is sent from now on has an answer.
func (g *probedGateway) awaitAnswer(answer string) {
	g.t.Helper()
	from := time.Now()
	g.await("answered with "+answer, func() bool { return slices.Contains(g.answers(from, time.Now()), answer) })
}

func TestNoArgumentsPrintsHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, cli.ExitOK, run(t.Context(), []string{}, nil, &stdout, &stderr))
	for _, text := range []string{"aikeysd admin dataplane create", "aikeys-gateway serve --token-file", "Exit codes: 0"} {
		require.Contains(t, stdout.String(), text)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"srve":             "serve",
		"serve --lisen x":  "unknown flag: --lisen; see aikeys-gateway serve --help",
		"serve dp_hunter2": "aikeys-gateway serve takes no arguments",
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, cli.ExitUsage, run(t.Context(), strings.Fields(line), nil, &stdout, &stderr), line)
		require.Empty(t, stdout.String())
		require.Contains(t, stderr.String(), says)
		require.NotContains(t, stderr.String(), "hunter2")
	}
}
