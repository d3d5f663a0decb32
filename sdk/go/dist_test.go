package agentrouter_test

import (
	"os"
	"os/exec"
	"path/filepath"
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

func TestPackedSDKIsReproducible(t *testing.T) {
	archive := "agentrouter-go-" + agentrouter.Version + ".tar.gz"
	first, second := t.TempDir(), t.TempDir()
	command(t, ".", nil, "./dist.sh", first)
	command(t, ".", []string{"TZ=Asia/Tokyo", "LC_ALL=C"}, "bash", "-c", "umask 077; ./dist.sh "+second)
	command(t, ".", nil, "cmp", filepath.Join(first, archive), filepath.Join(second, archive))
}
