package docs_test

import (
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The name agentrouter-sdk on PyPI belongs to somebody else's package. Whatever this repository shows people or runs itself names it with a
// place to take it from, or warns.
func TestNothingLeadsToTheSDKsNameOnPyPI(t *testing.T) {
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z")
	list.Dir = repository
	files, err := list.Output()
	require.NoError(t, err)
	text := []string{".md", ".html", ".yaml", ".yml", ".json", ".txt", ".in", ".toml", ".py", ".tmpl", ".sh", ".mjs", ".ts", ".go"}
	warnings := 0
	for file := range strings.SplitSeq(strings.TrimRight(string(files), "\x00"), "\x00") {
		if !slices.Contains(text, path.Ext(file)) || file == "docs/pypi_test.go" || strings.HasPrefix(file, "spec/released/") {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(readFile(t, file), `\n`, "\n")) {
			if !strings.Contains(strings.ToLower(line), "agentrouter") {
				continue
			}
			isWarning := strings.Contains(line, "PyPI")
			if isWarning {
				warnings++
			}
			require.False(t, leadsToPyPI(line) && !isWarning, "%s: %s", file, line)
		}
	}
	require.Greater(t, warnings, 5)
	for _, file := range []string{"sdk/python/README.md", "impl/docsite/templates/sdks.html", "docs/operations.md"} {
		require.Contains(t, readFile(t, file), "belongs to somebody else's package", file)
	}
	for line := range strings.Lines(readFile(t, "spec/aikeys.yaml")) {
		isImport := strings.Contains(line, "from agentrouter_sdk import")
		require.False(t, isImport && !strings.Contains(line, "  # from /docs/sdks; PyPI's agentrouter-sdk is not ours"), "a sample without the warning: %s", line)
	}
}

var (
	// sdkOnPyPI matches the names that PyPI takes for the SDK's, and what is before and after them.
	sdkOnPyPI = regexp.MustCompile(`(?i)(.?)\bagentrouter[-_.]+sdk\b(.{0,3})`)
	install   = regexp.MustCompile(`(?i)\b(pip3?|pipx|uv|poetry|pdm|conda|rye)\b.*\b(install|add|sync|download|wheel|run)\b`)
)

// leadsToPyPI reports whether a line names the distribution alone, so that pip would look it up on PyPI.
func leadsToPyPI(line string) bool {
	for _, m := range sdkOnPyPI.FindAllStringSubmatch(line, -1) {
		isNPM, hasPlace := m[1] == "/", strings.HasPrefix(m[2], " @ ")
		isModule := strings.Contains(strings.ToLower(m[0]), "agentrouter_sdk") && !install.MatchString(line)
		isOwnName := strings.HasPrefix(strings.TrimSpace(line), `name = "agentrouter-sdk"`)
		if !isNPM && !hasPlace && !isModule && !isOwnName {
			return true
		}
	}
	return false
}

func TestBareInstallsAreNoticed(t *testing.T) {
	for _, line := range []string{
		"pip install agentrouter-sdk", "python -m pip install -U agentrouter_sdk==0.1.1", "agentrouter-sdk", "agentrouter-sdk>=0.1",
		"uv add Agentrouter.SDK", `dependencies = ["agentrouter-sdk>=0.1"]`, "`agentrouter-sdk`",
	} {
		require.True(t, leadsToPyPI(line), line)
	}
	for _, line := range []string{
		"pip install 'agentrouter-sdk @ https://keys.example.com/docs/downloads/a.tar.gz#sha256=00'", "from agentrouter_sdk import Client",
		"agentrouter-sdk @ file:./third_party/agentrouter-python-0.1.1", "npm install @tetrate/agentrouter-sdk", "pip install ./third_party/agentrouter-python-0.1.1",
	} {
		require.False(t, leadsToPyPI(line), line)
	}
}
