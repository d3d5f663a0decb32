package agentrouter_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	agentrouter "github.com/tetrateio/agentrouter-go"
)

func command(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func TestThePackedSDKIsTheSameBytesEveryTime(t *testing.T) {
	archive := "agentrouter-go-" + agentrouter.Version + ".tar.gz"
	first, second := t.TempDir(), t.TempDir()
	command(t, ".", nil, "./dist.sh", first)
	command(t, ".", []string{"TZ=Asia/Tokyo", "LC_ALL=C"}, "bash", "-c", "umask 077; ./dist.sh "+second)
	command(t, ".", nil, "cmp", filepath.Join(first, archive), filepath.Join(second, archive))
}

// Each example becomes a module of its own beside the unpacked SDK, as the reference shows it: nothing is downloaded, and
// no go.sum is needed. It has the two environment variables and nothing else.
func TestExamplesRunAgainstTheServiceFromThePackedSDK(t *testing.T) {
	session := live(t)
	work := t.TempDir()
	name := "agentrouter-go-" + agentrouter.Version
	command(t, ".", nil, "./dist.sh", work)
	command(t, work, nil, "tar", "xzf", name+".tar.gz")
	expect := map[string]string{
		"register": "registered byok_", "get": `"state":"active"`, "list": "openai", "revoke": ": complete, ",
	}
	for _, example := range []string{"register", "get", "list", "revoke"} {
		t.Run(example, func(t *testing.T) {
			dir := filepath.Join(work, "run", example)
			must(t, os.MkdirAll(filepath.Join(dir, "third_party"), 0o750))
			must(t, os.Symlink(filepath.Join(work, name), filepath.Join(dir, "third_party", name)))
			source, err := os.ReadFile(filepath.Join(work, name, "examples", example, "main.go"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "main.go"), source, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(strings.Join([]string{
				"module example.com/aikeys/" + example, "go 1.26",
				"require github.com/tetrateio/agentrouter-go v" + agentrouter.Version,
				"replace github.com/tetrateio/agentrouter-go => ./third_party/" + name, "",
			}, "\n")), 0o600))
			out := command(t, dir, []string{
				"GOPROXY=off", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "OPENAI_API_KEY=",
				"AGENTROUTER_BASE_URL=" + session["AGENTROUTER_BASE_URL"],
				"AGENTROUTER_API_KEY=" + session["AGENTROUTER_MEMBER_API_KEY"],
			}, "go", "run", ".")
			contains(t, out, expect[example])
		})
	}
}

// The published examples print their result with %+v, which must not show addresses.
func TestAResultPrintsAsItsJSON(t *testing.T) {
	url := serve(t, write(keyBody))
	reply, err := client(t, url).AIKeys().Get(t.Context(), "", "", "x")
	must(t, err)
	contains(t, printed(reply), `"id":"byok_01M83VVAHV8M2T5K7N9R4W1XYZ"`)
	lacks(t, printed(reply), "0x")
}
