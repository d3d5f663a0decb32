package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gendp "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models/modelstest"
)

const (
	// runsProgram is a variable. If it is set, the test's executable runs the gateway instead of tests.
	runsProgram = "RUN_AIKEYS_GATEWAY"
	// callerToken is the API key of a caller, and providerSecret the provider key that serves it.
	callerToken, providerSecret = "ak_EXAMPLE_caller", "sk-EXAMPLE-EXAMPLE-0001"
	// unavailable is the answer when the gateway can neither serve nor refuse.
	unavailable = "Service Unavailable"
	// lease is the control plane's lease. On a busy machine, events may be late by margin.
	lease, margin = time.Second, 150 * time.Millisecond
)

// aikeysd is the path of the control plane's program, which TestMain builds.
var aikeysd string

func TestMain(m *testing.M) {
	if os.Getenv(runsProgram) != "" {
		main()
	}
	flag.Parse()
	err := flag.Set("test.parallel", "4") // most tests wait for other processes
	folder, makeErr := os.MkdirTemp("", "aikeys-gateway-")
	aikeysd = filepath.Join(folder, "aikeysd")
	if err = errors.Join(err, makeErr, programtest.Build(folder, "../aikeysd")); err != nil {
		panic(err)
	}
	modelstest.Main(m, func() { _ = os.RemoveAll(folder) })
}

// start starts one of our programs.
func start(t *testing.T, environ []string, program string, args ...string) *programtest.Process {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = environ
	return programtest.Launch(t, cmd)
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

// env is a provider, and a control plane in memory that has keys of the provider for a caller.
type env struct {
	t        *testing.T
	provider *gatewaytest.Provider
	control  *dataplanetest.ControlPlane
	key      string // the id of the key for OpenAI
	environ  []string
	dir      string // for unix sockets
}

func newEnv(t *testing.T, options ...gatewaytest.Option) *env {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw-") //nolint:usetesting // t.TempDir may be too long for a socket's path
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &env{t: t, provider: gatewaytest.StartProvider(t, append(options, gatewaytest.Accepting(providerSecret))...), control: dataplanetest.NewControlPlane(t), dir: dir}
	e.environ = gatewayEnviron(t, e.control.URL(), dataplanetest.Token)
	e.control.AddCredential(callerToken, dataplanetest.Credential{})
	e.key = e.control.RegisterKey(dataplanetest.Key{Secret: providerSecret, BaseURL: e.provider.URL + "/v1"})
	e.control.RegisterKey(dataplanetest.Key{Provider: "anthropic", Secret: providerSecret, BaseURL: e.provider.URL, AuthStyle: "x_api_key"})
	gemini := dataplanetest.Key{
		Provider: "gemini", Secret: providerSecret, BaseURL: e.provider.URL + "/v1beta", AuthStyle: "x_goog_api_key",
		Routes: []gendp.Route{{Path: "/v1beta/openai", AuthStyle: "bearer"}},
	}
	for _, path := range []string{"/v1", "/v1alpha", "/upload", "/ws"} {
		gemini.Routes = append(gemini.Routes, gendp.Route{Path: path, AuthStyle: "x_goog_api_key"})
	}
	e.control.RegisterKey(gemini)
	return e
}

// start starts a gateway.
func (e *env) start(flags ...string) *programtest.Process {
	e.t.Helper()
	return start(e.t, e.environ, os.Args[0], append([]string{"serve"}, flags...)...)
}

// startForProxies starts a gateway that answers other proxies on unix sockets.
func (e *env) startForProxies(flags ...string) *programtest.Process {
	e.t.Helper()
	return e.start(append(flags, "--forward-auth-listen", "unix:"+e.dir+"/f.sock", "--ext-authz-listen", "unix:"+e.dir+"/e.sock")...).AwaitReady()
}

// startAgent starts an agent.
func (e *env) startAgent() *programtest.Process {
	e.t.Helper()
	return start(e.t, e.environ, os.Args[0], "agent", "--agent-listen", "unix:"+e.dir+"/a.sock").AwaitReady()
}

// listModels asks a gateway for the caller's models of OpenAI.
func listModels(p *programtest.Process) programtest.Reply {
	return programtest.Send(http.MethodGet, p.URL("gateway")+"/openai/models", callerToken, "")
}

// controlPlane is aikeysd in processes that share a database. Customer acme has the project chat, of which alice is the owner.
type controlPlane struct {
	t        *testing.T
	environ  []string
	provider *gatewaytest.Provider
	upstream string // where gateways send the requests for OpenAI: the provider, unless a test changes it
	alice    string // her API key
	customer string // of new data planes
}

func newControlPlane(t *testing.T, database string) *controlPlane {
	t.Helper()
	c := &controlPlane{t: t, provider: gatewaytest.StartProvider(t, gatewaytest.WithoutRecords()), customer: "acme", environ: []string{
		"AIKEYS_DATABASE_URL=" + database, "AIKEYS_SEALER=local:" + filepath.Join(t.TempDir(), "keyset.json"),
		"AIKEYS_RATE_LIMIT=0", "AIKEYS_FAILED_AUTH_LIMIT=0", "AIKEYS_LISTEN=127.0.0.1:0",
		"AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0", "AIKEYS_LOG_FORMAT=json",
	}}
	c.upstream = c.provider.URL + "/v1"
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
func (c *controlPlane) start(environ ...string) *programtest.Process {
	c.t.Helper()
	return start(c.t, append(environ, c.environ...), aikeysd, "serve").AwaitReady()
}

// call sends a request about keys to a replica, as alice.
func (c *controlPlane) call(replica *programtest.Process, method, path, body string) (answer struct {
	Key     pub.Key
	Receipt pub.Receipt
}) {
	c.t.Helper()
	got := programtest.Send(method, replica.URL("api")+"/v1/aikeys"+path, c.alice, body)
	require.Less(c.t, got.Status, http.StatusMultipleChoices, got.Body)
	require.NoError(c.t, json.Unmarshal([]byte(got.Body), &answer), got.Body)
	return answer
}

// register registers a key that the provider accepts, and returns its id.
func (c *controlPlane) register(replica *programtest.Process) string {
	c.t.Helper()
	name := strconv.FormatInt(time.Now().UnixNano(), 10)
	c.provider.Accept("sk-EXAMPLE-" + name)
	return c.call(replica, http.MethodPost, "", fmt.Sprintf(`{"provider":"openai","name":"key %s","secret":"sk-EXAMPLE-%[1]s"}`, name)).Key.ID
}

// projectPath is the path of the project of a caller's session.
const projectPath = "/v1/customers/-/projects/-"

// addBob makes bob a member with a provider key of his own. It returns his API key and the id of that provider key.
func (c *controlPlane) addBob(replica *programtest.Process) (token, own string) {
	c.t.Helper()
	c.run("admin member set --customer acme --project chat --user bob --role member")
	asBob := *c
	asBob.alice = c.run("admin token create --customer acme --project chat --user bob")
	key := asBob.call(replica, http.MethodPost, "", `{"provider":"groq","name":"own","secret":"gsk_`+strings.Repeat("EXAMPLE", 8)+`","user_scope":true}`).Key
	return asBob.alice, key.ID
}

// revoke revokes a key, and waits for the receipt for at most the given time. If the key is already revoked, revoke
// gets its receipt again.
func (c *controlPlane) revoke(replica *programtest.Process, key, wait string) pub.Receipt {
	c.t.Helper()
	return c.call(replica, http.MethodDelete, "/"+key+"?wait="+wait, "").Receipt
}

// startGateway starts a gateway of a new data plane.
func (c *controlPlane) startGateway(controlPlane, name string, flags ...string) *programtest.Process {
	c.t.Helper()
	environ := gatewayEnviron(c.t, controlPlane, c.run("admin dataplane create --customer "+c.customer+" --name "+name))
	return start(c.t, environ, os.Args[0], append([]string{"serve", "--upstream", "openai=" + c.upstream}, flags...)...).AwaitReady()
}

// probedGateway is a running gateway that gets requests all the time, and the outcome of each.
type probedGateway struct {
	*programtest.Process

	mu       sync.Mutex
	requests []request
}

type request struct {
	sent, done time.Time
	answer     string // the id of the key that served it, or why none did
}

// startProbed starts a gateway with flags. Until the test ends, it sends requests to the gateway with the credentials
// of the callers in turn. If callers is empty, it uses alice's credential.
func (c *controlPlane) startProbed(controlPlane, flags string, callers ...string) *probedGateway {
	c.t.Helper()
	g := &probedGateway{Process: c.startGateway(controlPlane, fmt.Sprintf("edge-%d", time.Now().UnixNano()), strings.Fields(flags)...)}
	url := g.URL("gateway") + "/openai/models"
	ctx, stop := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			time.Sleep(10 * time.Millisecond) // the interval of requests
			sending.Go(func() {
				sent, token := time.Now(), append(callers, c.alice)[i%max(1, len(callers))]
				got := programtest.Send(http.MethodGet, url, token, "")
				answer := cmp.Or(got.Header.Get("Agentrouter-Key-Id"), http.StatusText(got.Status), got.Body)
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
	from := time.Now()
	g.Await("answered with "+answer, func() bool { return slices.Contains(g.answers(from, time.Now()), answer) })
}

func TestNoArgumentsPrintsHelp(t *testing.T) {
	got := programtest.Program(run).Run(t, nil)
	require.Equal(t, cli.ExitOK, got.Code)
	for _, text := range []string{"aikeysd admin dataplane create", "aikeys-gateway serve --token-file", "Exit codes: 0"} {
		require.Contains(t, got.Stdout, text)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"srve":             "serve",
		"serve --lisen x":  "unknown flag: --lisen; see aikeys-gateway serve --help",
		"serve dp_hunter2": "aikeys-gateway serve takes no arguments",
	} {
		got := programtest.Program(run).Run(t, nil, strings.Fields(line)...)
		require.Equal(t, cli.ExitUsage, got.Code, line)
		require.Empty(t, got.Stdout)
		require.Contains(t, got.Stderr, says)
		require.NotContains(t, got.Stderr, "hunter2")
	}
}
