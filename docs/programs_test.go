package docs_test

import (
	"context"
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

// startTimeout is how long a program may take to start, on a machine that runs other tests as well.
const startTimeout = time.Minute

// The pages that have the programs' settings, metrics and messages.
const (
	operationsPage      = "docs/operations.md"
	gatewayPage         = "docs/gateway.md"
	secretsPage         = "docs/secrets.md"
	troubleshootingPage = "docs/troubleshooting.md"
)

// TestDocsAndPrograms builds the programs as make does, once, and compares them with the pages.
func TestDocsAndPrograms(t *testing.T) {
	bin := t.TempDir()
	build(t, bin+"/", "./cmd/...")

	t.Run("commands and flags", func(t *testing.T) { requireCommands(t, bin) })
	t.Run("help of every command", func(t *testing.T) {
		shown := 0
		for _, program := range append([]string{"tare"}, programs...) {
			shown += requireHelp(t, bin, program)
		}
		require.Greater(t, shown, 60)
	})
	t.Run("settings and defaults", func(t *testing.T) { requireSettings(t, bin) })
	t.Run("messages", func(t *testing.T) { requireMessages(t, bin) })
	t.Run("examples in Go", requireGoPrograms)
	t.Run("steps of the README", func(t *testing.T) {
		dev := startDev(t, filepath.Join(bin, "aikeysd"))
		requireSteps(t, dev.dir)
		// The last argument names the metrics of events that the README's steps don't cause.
		t.Run("metrics of aikeysd", func(t *testing.T) {
			requireMetrics(t, operationsPage, dev.opsURL, "aikeys_feed_streams_ended_total")
		})
		t.Run("metrics of the gateway", func(t *testing.T) {
			requireMetrics(t, gatewayPage, dev.gatewayOpsURL, "aikeys_gateway_authorizations_total", "aikeys_gateway_upstream_seconds",
				"aikeys_dataplane_fetches_discarded_total")
		})
	})
}

// build builds packages, named from the root of the repository, as make does.
func build(t *testing.T, to string, packages ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-trimpath", "-o", to}, packages...)...)
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// requireGoPrograms builds the blocks of Go that are whole programs.
func requireGoPrograms(t *testing.T) {
	programs := 0
	for _, p := range readPages(t) {
		blocks, _ := p.split()
		for _, b := range blocks {
			if b.info != "go" || !strings.HasPrefix(b.text, "package main\n") {
				continue
			}
			programs++
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(b.text), 0o600), p.file)
			build(t, filepath.Join(dir, "program"), filepath.Join(dir, "main.go"))
		}
	}
	require.Positive(t, programs)
}

// newEnviron returns an environment without the developer's own settings, proxy and ~/.curlrc.
func newEnviron(t *testing.T) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C"}
}

// help returns the help of a command, with its lines joined.
func help(t *testing.T, program string, command ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append(command, "--help")...)
	cmd.Env = newEnviron(t)
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s --help", filepath.Base(program), strings.Join(command, " "))
	return strings.Join(strings.Fields(string(out)), " ")
}

var (
	programs    = []string{"aikeysd", "aikeys-gateway", "secrets-svc"}
	commandLine = regexp.MustCompile(`(?:^|[\s/(])(aikeysd|aikeys-gateway|secrets-svc)((?: +[^\s|>&;]+)*)`)
	commandWord = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	flagName    = regexp.MustCompile(`^--[a-z-]+`)
)

func requireCommands(t *testing.T, bin string) {
	helps := map[string]string{}
	for _, p := range readPages(t) {
		for _, line := range p.commands() {
			for _, m := range commandLine.FindAllStringSubmatch(line, -1) {
				words := strings.Fields(m[2])
				end := slices.IndexFunc(words, func(word string) bool { return !commandWord.MatchString(word) || slices.Contains(programs, word) })
				if end < 0 {
					end = len(words)
				}
				command := strings.TrimSpace(m[1] + " " + strings.Join(words[:end], " "))
				if helps[command] == "" {
					helps[command] = help(t, filepath.Join(bin, m[1]), words[:end]...)
				}
				usage := "Usage: " + command
				require.Regexp(t, regexp.QuoteMeta(usage)+`( <[^>]+>)* \[`, helps[command], "%s says %q", p.file, line)
				for _, word := range words[end:] {
					if flag := flagName.FindString(word); flag != "" {
						require.Contains(t, helps[command], flag+" ", "%s says %q", p.file, line)
					}
				}
			}
		}
	}
	require.Greater(t, len(helps), 12)
}

// subcommand is a line of help that lists a command.
var subcommand = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) {2,}\S`)

// requireHelp requires that the help of a command and of all below it explains and shows by examples what it does, in lines
// of at most 120 columns. It returns their number.
func requireHelp(t *testing.T, bin string, command ...string) (shown int) {
	t.Helper()
	name := strings.Join(command, " ")
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, command[0]), append(command[1:], "--help")...)
	cmd.Env = newEnviron(t)
	out, err := cmd.Output()
	require.NoError(t, err, name)
	for line := range strings.Lines(string(out)) {
		require.LessOrEqual(t, len(strings.TrimSpace(line)), 120, name)
	}
	about, usage, found := strings.Cut(string(out), "\nUsage:\n")
	require.True(t, found, name)
	require.NotEmpty(t, about, name)
	if examples := regexp.MustCompile(`(?s)\nExamples:\n(.*?)\n\n[A-Z][^\n]*:\n`).FindStringSubmatch(usage); examples != nil {
		about += examples[1]
	}
	require.Contains(t, about, name, "%s: its help shows how to run it", name)
	commands, _, _ := strings.Cut(usage, "\nFlags:\n")
	shown = 1
	for _, m := range subcommand.FindAllStringSubmatch(commands, -1) {
		if m[1] != "help" && m[1] != command[len(command)-1] && m[1] != command[0] {
			shown += requireHelp(t, bin, append(slices.Clone(command), m[1])...)
		}
	}
	return shown
}

var (
	settingName = regexp.MustCompile(`\b(?:AIKEYS|SECRETS_SVC)_[A-Z_]+`)
	settingRow  = regexp.MustCompile("(?m)^\\| `((?:AIKEYS|SECRETS_SVC)_[A-Z_]+)` \\| (?:`([^`]*)` )?\\|")
	settingHelp = regexp.MustCompile(`\[((?:AIKEYS|SECRETS_SVC)_[A-Z_]+)\](?: \(default ([^)]+)\))?`)
)

// requireSettings compares each program's settings with the table of its page, and requires that no page names another one.
func requireSettings(t *testing.T, bin string) {
	all := map[string]string{"AIKEYS_GATEWAY_": ""} // the prefix, which a page may name
	for program, file := range map[string]string{"aikeysd": operationsPage, "aikeys-gateway": gatewayPage, "secrets-svc": secretsPage} {
		defaults, documented := map[string]string{}, map[string]string{}
		for _, m := range settingHelp.FindAllStringSubmatch(help(t, filepath.Join(bin, program), "serve"), -1) {
			defaults[m[1]], all[m[1]] = m[2], m[2]
		}
		for _, m := range settingRow.FindAllStringSubmatch(readFile(t, file), -1) {
			documented[m[1]] = m[2]
			if m[2] == "false" || m[2] == "0" {
				documented[m[1]] = "" // help shows no default that is Go's zero value
			}
		}
		require.Equal(t, defaults, documented, file)
	}
	for _, p := range readPages(t) {
		for _, name := range settingName.FindAllString(p.text, -1) {
			require.Contains(t, all, name, p.file)
		}
	}
}

var messageRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// requireMessages requires that each message quoted on the page about troubleshooting is in one of the programs.
func requireMessages(t *testing.T, bin string) {
	var contents []string
	for _, name := range programs {
		content, err := os.ReadFile(filepath.Join(bin, name))
		require.NoError(t, err)
		contents = append(contents, string(content))
	}
	messages := messageRow.FindAllStringSubmatch(readFile(t, troubleshootingPage), -1)
	require.Greater(t, len(messages), 10)
	var unknown []string
	for _, m := range messages {
		if !slices.ContainsFunc(contents, func(content string) bool { return strings.Contains(content, m[1]) }) {
			unknown = append(unknown, m[1])
		}
	}
	require.Empty(t, unknown, "no program has these messages")
}

// dev is "aikeysd dev" running in a folder of its own, as make run starts it.
type dev struct{ dir, opsURL, gatewayOpsURL string }

var (
	opsAddress        = regexp.MustCompile(`(?m)^  Ops +(http://\S+)`)
	gatewayOpsAddress = regexp.MustCompile(`listening gateway=\S+ ops=(http://\S+)`)
)

func startDev(t *testing.T, program string) dev {
	t.Helper()
	dir := t.TempDir()
	output, err := os.Create(filepath.Join(dir, "output"))
	require.NoError(t, err)
	defer func() { require.NoError(t, output.Close()) }() // the program has its own copy of the descriptor
	const anyPort = "127.0.0.1:0"
	cmd := exec.CommandContext(context.Background(), program, "dev", "--listen", anyPort, "--dataplane-listen", anyPort,
		"--ops-listen", anyPort, "--gateway-listen", anyPort)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, newEnviron(t), output, output
	require.NoError(t, cmd.Start())
	printed := func() string {
		text, err := os.ReadFile(output.Name())
		require.NoError(t, err)
		return string(text)
	}
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.NoError(t, cmd.Wait(), printed())
	})
	for end := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		if ops, gateway := opsAddress.FindStringSubmatch(printed()), gatewayOpsAddress.FindStringSubmatch(printed()); ops != nil && gateway != nil {
			return dev{dir: dir, opsURL: ops[1], gatewayOpsURL: gateway[1]}
		}
		require.True(t, time.Now().Before(end), "aikeysd dev is not ready; it printed:\n%s", printed())
	}
}

// stepInfo marks the blocks of the README that a reader runs one after the other. A block of JSON that follows one is what
// it prints, except for ids, times and tokens.
const stepInfo = "bash walk"

func requireSteps(t *testing.T, dir string) {
	t.Helper()
	blocks, _ := page{"README.md", readFile(t, "README.md")}.split()
	script := "set -euo pipefail\n"
	var wants []string
	for i, b := range blocks {
		if b.info != stepInfo {
			continue
		}
		script += b.text + "printf '\\0'\n"
		want := ""
		if i+1 < len(blocks) && blocks[i+1].info == "json" {
			want = blocks[i+1].text
		}
		wants = append(wants, want)
	}
	require.Greater(t, len(wants), 5)

	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, newEnviron(t), strings.NewReader(script)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", out, &stderr)
	require.Empty(t, stderr.String())
	printed := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	require.Len(t, printed, len(wants))
	for i, want := range wants {
		if want != "" {
			require.JSONEq(t, withoutVariables(want), withoutVariables(printed[i]))
		} else if i > 0 { // the first only loads the session
			require.Contains(t, printed[i], `"key`, "it shows a key, or keys")
			require.NotContains(t, printed[i], `"code"`, "it is no problem document")
		}
	}
}

var (
	anyULID  = regexp.MustCompile(`[0-7][0-9A-HJKMNP-TV-Z]{25}`)
	anyStamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`)
	anyPage  = regexp.MustCompile(`("next_page_token": ?)"[^"]+"`)
	anyTook  = regexp.MustCompile(`("slowest_ms": ?)\d+`)
)

// withoutVariables replaces what differs from run to run.
func withoutVariables(text string) string {
	text = anyTook.ReplaceAllString(anyPage.ReplaceAllString(text, `$1"TOKEN"`), `${1}0`)
	return anyStamp.ReplaceAllString(anyULID.ReplaceAllString(text, "ULID"), "TIME")
}

var (
	metricName = regexp.MustCompile(`\baikeys_[a-z_]+`)
	metricType = regexp.MustCompile(`(?m)^# TYPE (aikeys_\w+) `)
	metricPart = regexp.MustCompile(`_(bucket|count|sum)$`)
)

// documentedMetrics returns the metrics that a page names in its section about them.
func documentedMetrics(t *testing.T, file string) (names []string) {
	t.Helper()
	_, section, found := strings.Cut(readFile(t, file), "\n## Metrics and alerts\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for _, name := range metricName.FindAllString(section, -1) {
		if !strings.HasSuffix(name, "_") { // otherwise it is the beginning of several
			names = append(names, metricPart.ReplaceAllString(name, ""))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// requireMetrics compares the metrics of a running program with its page, which alone may name those in alsoDocumented.
func requireMetrics(t *testing.T, file, opsURL string, alsoDocumented ...string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, opsURL+"/metrics", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)

	shown := alsoDocumented
	for _, m := range metricType.FindAllStringSubmatch(string(text), -1) {
		shown = append(shown, m[1])
	}
	slices.Sort(shown)
	require.Equal(t, slices.Compact(shown), documentedMetrics(t, file))
}
