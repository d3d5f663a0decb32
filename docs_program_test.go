package aikeys_test

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

// startPatience is how long the program may take to begin, on a machine that is busy with other tests.
const startPatience = time.Minute

// The programs, and the pages that have their settings and metrics.
const (
	controlPlane, controlPlanePage = "aikeysd", "docs/operations.md"
	gateway, gatewayPage           = "aikeys-gateway", "docs/gateway.md"
	keeper, keeperPage             = "secrets-svc", "docs/secrets.md"
)

// TestThePagesAreTrueOfThePrograms builds the programs as make does, and holds the pages against them.
func TestThePagesAreTrueOfThePrograms(t *testing.T) {
	bin := t.TempDir()
	build(t, bin+"/", "./cmd/...")

	t.Run("every command and flag exists", func(t *testing.T) { requireCommands(t, bin) })
	t.Run("the settings and their defaults are the programs' own", func(t *testing.T) { requireSettings(t, bin) })
	t.Run("Go programs build", requireGo)
	t.Run("the README's steps work as they stand", func(t *testing.T) {
		dev := startDev(t, filepath.Join(bin, controlPlane))
		requireWalk(t, dev.dir)
		t.Run("and what metrics it shows are on the page", func(t *testing.T) { requireShown(t, dev.ops) })
	})
}

// build builds what the arguments name, as make does.
func build(t *testing.T, to string, what ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-trimpath", "-o", to}, what...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// requireGo builds the blocks of Go that are programs.
func requireGo(t *testing.T) {
	programs := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks() {
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

// cleanEnviron has nothing of the developer's own: no settings, no proxy, no ~/.curlrc.
func cleanEnviron(t *testing.T) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C"}
}

// help returns what a command says of itself, with its lines joined.
func help(t *testing.T, program string, command ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append(command, "--help")...)
	cmd.Env = cleanEnviron(t)
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s --help", filepath.Base(program), strings.Join(command, " "))
	return strings.Join(strings.Fields(string(out)), " ")
}

var (
	commandLine = regexp.MustCompile(`(?:^|[\s/(])(aikeysd|aikeys-gateway|secrets-svc)((?: +[^\s|>&;]+)*)`)
	commandWord = regexp.MustCompile(`^[a-z]+$`)
	flagName    = regexp.MustCompile(`^--[a-z-]+`)
)

func requireCommands(t *testing.T, bin string) {
	helps := map[string]string{}
	for _, p := range pages(t) {
		for _, line := range p.commands() {
			for _, m := range commandLine.FindAllStringSubmatch(line, -1) {
				words := strings.Fields(m[2])
				end := slices.IndexFunc(words, func(word string) bool { return !commandWord.MatchString(word) })
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

var (
	settingName = regexp.MustCompile(`\b(?:AIKEYS|SECRETS_SVC)_[A-Z_]+`)
	settingRow  = regexp.MustCompile("(?m)^\\| `((?:AIKEYS|SECRETS_SVC)_[A-Z_]+)` \\| (?:`([^`]*)` )?\\|")
	settingHelp = regexp.MustCompile(`\[((?:AIKEYS|SECRETS_SVC)_[A-Z_]+)\](?: \(default ([^)]+)\))?`)
)

// requireSettings compares each program's settings with the table of its page, and looks for others in all pages.
func requireSettings(t *testing.T, bin string) {
	all := map[string]string{"AIKEYS_GATEWAY_": ""} // the prefix, which a page may name
	for program, file := range map[string]string{controlPlane: controlPlanePage, gateway: gatewayPage, keeper: keeperPage} {
		defaults, documented := map[string]string{}, map[string]string{}
		for _, m := range settingHelp.FindAllStringSubmatch(help(t, filepath.Join(bin, program), "serve"), -1) {
			defaults[m[1]], all[m[1]] = m[2], m[2]
		}
		for _, m := range settingRow.FindAllStringSubmatch(readText(t, file), -1) {
			documented[m[1]] = m[2]
			if m[2] == "false" || m[2] == "0" {
				documented[m[1]] = "" // help shows no default that is Go's zero
			}
		}
		require.Equal(t, defaults, documented, file)
	}
	for _, p := range pages(t) {
		for _, name := range settingName.FindAllString(p.text, -1) {
			require.Contains(t, all, name, p.file)
		}
	}
}

// dev is "aikeysd dev" at work in a folder of its own, as make run starts it.
type dev struct{ dir, ops string }

var opsAddress = regexp.MustCompile(`(?m)^  Ops +(http://\S+)`)

func startDev(t *testing.T, program string) dev {
	t.Helper()
	dir := t.TempDir()
	said, err := os.Create(filepath.Join(dir, "said"))
	require.NoError(t, err)
	defer func() { require.NoError(t, said.Close()) }() // the program has its own
	const anyPort = "127.0.0.1:0"
	cmd := exec.CommandContext(context.Background(), program, "dev", "--listen", anyPort, "--dataplane-listen", anyPort,
		"--ops-listen", anyPort, "--gateway-listen", anyPort)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, cleanEnviron(t), said, said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.NoError(t, cmd.Wait(), readText(t, said.Name()))
	})
	for end := time.Now().Add(startPatience); ; time.Sleep(20 * time.Millisecond) {
		text := readText(t, said.Name())
		if found := opsAddress.FindStringSubmatch(text); found != nil {
			return dev{dir: dir, ops: found[1]}
		}
		require.True(t, time.Now().Before(end), "aikeysd dev is not ready; it said:\n%s", text)
	}
}

// walkInfo marks the blocks of the README that a reader runs one after the other; a block of JSON behind one is what it
// prints, but for ids, times and tokens.
const walkInfo = "bash walk"

func requireWalk(t *testing.T, dir string) {
	t.Helper()
	blocks := page{"README.md", readText(t, "README.md")}.blocks()
	script := "set -euo pipefail\n"
	var wants []string
	for i, b := range blocks {
		if b.info != walkInfo {
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

	ctx, cancel := context.WithTimeout(t.Context(), startPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, cleanEnviron(t), strings.NewReader(script)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", out, &complaints)
	require.Empty(t, complaints.String())
	printed := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	require.Len(t, printed, len(wants))
	for i, want := range wants {
		if want != "" {
			require.JSONEq(t, anyTime(want), anyTime(printed[i]))
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

// anyTime replaces what differs from run to run.
func anyTime(text string) string {
	text = anyTook.ReplaceAllString(anyPage.ReplaceAllString(text, `$1"TOKEN"`), `${1}0`)
	return anyStamp.ReplaceAllString(anyULID.ReplaceAllString(text, "ULID"), "TIME")
}

var (
	metricName   = regexp.MustCompile(`\baikeys_[a-z_]+`)
	metricType   = regexp.MustCompile(`(?m)^# TYPE (aikeys_\w+) `)
	metricPart   = regexp.MustCompile(`_(bucket|count|sum)$`)
	metricSource = regexp.MustCompile(`(?:Name: +|NewDesc\(|gauge\()"(aikeys_[a-z_]+)"`)
)

// metricsOn returns the metrics that a page names in its section on them.
func metricsOn(t *testing.T, file string) []string {
	t.Helper()
	_, section, found := strings.Cut(readText(t, file), "\n## Metrics and alerts\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var named []string
	for _, name := range metricName.FindAllString(section, -1) {
		if !strings.HasSuffix(name, "_") { // else it is the beginning of several
			named = append(named, metricPart.ReplaceAllString(name, ""))
		}
	}
	slices.Sort(named)
	return slices.Compact(named)
}

func TestTheMetricsOnThePagesAreTheProgramsOwn(t *testing.T) {
	for file, folders := range map[string][]string{controlPlanePage: {"impl", "models"}, gatewayPage: {"dataplane"}} {
		var registered []string
		for _, m := range metricSource.FindAllStringSubmatch(sources(t, folders...), -1) {
			registered = append(registered, m[1])
		}
		slices.Sort(registered)
		require.Equal(t, slices.Compact(registered), metricsOn(t, file), file)
	}
}

// requireShown looks for each metric that a program at work shows on its page.
func requireShown(t *testing.T, ops string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ops+"/metrics", nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)

	shown := metricType.FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(shown), 5)
	for _, m := range shown {
		require.Contains(t, metricsOn(t, controlPlanePage), m[1])
	}
}
