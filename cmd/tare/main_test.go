package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// made is what TestMain builds and starts: the program as users have it, and a server that it talks to.
type made struct {
	tare   string
	server *exec.Cmd
	exited chan struct{}
	env    map[string]string // the session file's
}

// built is set once, before the tests.
var built made

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "tare")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		built = makeAll(dir)
		defer built.end()
		return m.Run()
	}())
}

func makeAll(dir string) made {
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "../tare", "../aikeysd", "../aikeys-gateway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	data := filepath.Join(dir, "data")
	const anyPort = "127.0.0.1:0"
	server := exec.Command(filepath.Join(dir, "aikeysd"), "dev", "--data", data, "--listen", anyPort,
		"--dataplane-listen", anyPort, "--ops-listen", anyPort, "--gateway-listen", anyPort)
	said, err := os.Create(filepath.Join(dir, "said"))
	if err != nil {
		panic(err)
	}
	server.Stdout, server.Stderr = said, said
	if err := server.Start(); err != nil {
		panic(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait() // what it said says why
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(said.Name())
		if err == nil && bytes.Contains(text, []byte("Ctrl-C stops it")) {
			break
		}
		if isClosed(exited) || time.Now().After(end) {
			panic("aikeysd dev is not ready; it said:\n" + string(text))
		}
	}
	session, err := os.ReadFile(filepath.Join(data, "session.env"))
	if err != nil {
		panic(err)
	}
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)=(.*)$`).FindAllStringSubmatch(string(session), -1) {
		found[m[1]] = m[2]
	}
	return made{tare: filepath.Join(dir, "tare"), server: server, exited: exited, env: found}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (m made) end() {
	_ = m.server.Process.Signal(os.Interrupt)
	<-m.exited
}

// person runs tare with settings of their own.
type person struct {
	t      *testing.T
	config string
	env    []string
}

// newPerson is somebody who has never logged in.
func newPerson(t *testing.T, env ...string) *person {
	t.Helper()
	home := t.TempDir()
	config := filepath.Join(home, "settings", "tare")
	return &person{t, config, append([]string{
		"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TERM=xterm", "XDG_CONFIG_HOME=" + filepath.Dir(config),
	}, env...)}
}

// of is somebody whose environment has a session.
func of(t *testing.T, baseURL, apiKey string) *person {
	t.Helper()
	return newPerson(t, "AGENTROUTER_BASE_URL="+baseURL, "AGENTROUTER_API_KEY="+apiKey)
}

// alice owns the project of the live server.
func alice(t *testing.T) *person {
	t.Helper()
	return of(t, built.env["AGENTROUTER_BASE_URL"], built.env["AGENTROUTER_API_KEY"])
}

// bob is a member of it.
func bob(t *testing.T) *person {
	t.Helper()
	return of(t, built.env["AGENTROUTER_BASE_URL"], built.env["AGENTROUTER_MEMBER_API_KEY"])
}

// outcome is what one run left.
type outcome struct {
	code           int
	stdout, stderr string
}

// all is everything that came out.
func (o outcome) all() string { return o.stdout + o.stderr }

// with is the environment, with more in it.
func (u *person) with(more ...string) []string { return slices.Concat(u.env, more) }

func (u *person) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, built.tare, args...)
	cmd.Env = u.env
	return cmd
}

// pipe runs a command line, with words as a shell parts them, and stdin as its standard input.
func (u *person) pipe(stdin string, args ...string) outcome {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // a test's own has ended when it cleans up
	defer cancel()
	if len(args) == 1 {
		args = strings.Fields(args[0])
	}
	cmd := u.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	require.NoError(u.t, ctx.Err(), "it did not end by itself; it said:\n%s%s", &stdout, &stderr)
	if err != nil {
		exit := (*exec.ExitError)(nil)
		require.ErrorAs(u.t, err, &exit)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (u *person) run(args ...string) outcome {
	u.t.Helper()
	return u.pipe("", args...)
}

// ok is run for what must succeed and have nothing to say but its result.
func (u *person) ok(args ...string) string {
	u.t.Helper()
	got := u.run(args...)
	require.Equal(u.t, exitOK, got.code, "%q said:\n%s", args, got.all())
	require.Empty(u.t, got.stderr, "%q", args)
	return got.stdout
}

var anyKeyID = regexp.MustCompile(`byok_[0-9A-Z]{26}`)

// aSecret is a made-up key of OpenAI's.
const aSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-hunter2"

// add registers a key and returns its id.
func (u *person) add(name string, flags ...string) string {
	u.t.Helper()
	got := u.pipe(aSecret+"\n", append([]string{"api", "byok", "add", "--provider", "openai", "--name", name}, flags...)...)
	require.Equal(u.t, exitOK, got.code, got.all())
	id := anyKeyID.FindString(got.stdout)
	require.NotEmpty(u.t, id)
	u.t.Cleanup(func() { u.revoke(id) })
	return id
}

func (u *person) revoke(id string) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodDelete,
		built.env["AGENTROUTER_BASE_URL"]+"/v1/aikeys/"+id, http.NoBody)
	require.NoError(u.t, err)
	u.send(request)
}

// answer is what the live server says to a GET of a path under the session's project, or of one that begins with /v1.
func (u *person) answer(path string) string {
	u.t.Helper()
	if !strings.HasPrefix(path, "/v1") {
		path = "/v1/customers/-/projects/-" + path
	}
	request, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, built.env["AGENTROUTER_BASE_URL"]+path, http.NoBody)
	require.NoError(u.t, err)
	return u.send(request)
}

func (u *person) send(request *http.Request) string {
	for _, entry := range u.env {
		if key, ok := strings.CutPrefix(entry, "AGENTROUTER_API_KEY="); ok {
			request.Header.Set("Authorization", "Bearer "+key)
		}
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(u.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(u.t, err)
	require.Equal(u.t, http.StatusOK, response.StatusCode, "%s", text)
	return string(text)
}

func decoded(t *testing.T, document string) map[string]any {
	t.Helper()
	var value map[string]any
	require.NoError(t, json.Unmarshal([]byte(document), &value), document)
	return value
}
