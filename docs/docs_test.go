// Package docs_test checks the repository's Markdown pages. Everything that a page names must exist, and everything
// that a page says about the programs must be true.
package docs_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/secrets"
)

// repository is the path from the folder that this package's tests run in to the root of the repository.
const repository = ".."

// page is a Markdown page. The field file is its path from the root of the repository, such as README.md or
// docs/security.md.
type page struct {
	file, text string
	blocks     []block
	prose      string   // the text without the blocks
	commands   []string // what a reader may run: the lines of shell blocks, without comments, and the code spans
}

// block is a fenced block of a page: the info string of the opening fence, and the lines up to the closing fence.
type block struct{ info, text string }

var (
	codeSpan     = regexp.MustCompile("`([^`]+)`")
	shellComment = regexp.MustCompile(`(?m)(^|\s)#.*$`)
)

// readPages returns every page of the repository by its file.
func readPages(t *testing.T) map[string]page {
	t.Helper()
	pages := map[string]page{}
	require.NoError(t, fs.WalkDir(os.DirFS(repository), ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (entry.Name()[0] == '.' || entry.Name() == "node_modules"):
			return fs.SkipDir
		case path.Ext(file) != ".md":
			return nil
		}
		p, inside := page{file: file, text: readFile(t, file)}, false
		for line := range strings.Lines(p.text) {
			info, isFence := strings.CutPrefix(line, "```")
			switch {
			case isFence && !inside:
				p.blocks = append(p.blocks, block{info: strings.TrimSpace(info)})
			case inside && !isFence:
				p.blocks[len(p.blocks)-1].text += line
			case !isFence:
				p.prose += line
			}
			inside = inside != isFence
		}
		for _, m := range codeSpan.FindAllStringSubmatch(p.prose, -1) {
			p.commands = append(p.commands, onOneLine(m[1]))
		}
		for _, b := range p.blocks {
			if language, _, _ := strings.Cut(b.info, " "); language == "bash" {
				text := shellComment.ReplaceAllString(strings.ReplaceAll(b.text, "\\\n", " "), "")
				p.commands = append(p.commands, strings.Split(text, "\n")...)
			}
		}
		pages[file] = p
		return nil
	}))
	require.Greater(t, len(pages), 5)
	return pages
}

// readFile returns the text of a file. The name is a path from the root of the repository.
func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(path.Join(repository, file))
	require.NoError(t, err)
	return string(text)
}

func TestDocsLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading, notSlug := regexp.MustCompile(`(?m)^#+ (.+)$`), regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	links := 0
	pages := readPages(t)
	for _, p := range pages {
		for _, m := range link.FindAllStringSubmatch(p.prose, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			target, anchor, _ := strings.Cut(m[1], "#")
			file := p.file
			if target != "" {
				file = path.Join(path.Dir(p.file), target)
				_, err := os.Stat(path.Join(repository, file))
				require.NoError(t, err, "%s links to %s", p.file, m[1])
			}
			if anchor != "" {
				var anchors []string // the page's headings as links name them
				for _, m := range heading.FindAllStringSubmatch(pages[file].prose, -1) {
					anchors = append(anchors, strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
				}
				require.Contains(t, anchors, anchor, "%s links to %s", p.file, m[1])
			}
		}
	}
	require.Greater(t, links, 30)
}

func TestDocsNameOnlyExistingFiles(t *testing.T) {
	filePath := regexp.MustCompile(`^\.?[\w-]+(/[\w.*-]+)*/?$`)
	notInGit := []string{"bin", "data", "dist"}
	tree := os.DirFS(repository)
	named := 0
	for _, p := range readPages(t) {
		for _, m := range codeSpan.FindAllStringSubmatch(p.prose, -1) {
			span := onOneLine(m[1])
			top, _, isPath := strings.Cut(span, "/")
			entry, err := os.Stat(path.Join(repository, top))
			if !isPath || err != nil || !entry.IsDir() || slices.Contains(notInGit, top) || !filePath.MatchString(span) {
				continue
			}
			named++
			matches, err := fs.Glob(tree, strings.TrimSuffix(span, "/"))
			require.NoError(t, err)
			require.NotEmpty(t, matches, "%s names %s", p.file, span)
		}
	}
	require.Greater(t, named, 50)
}

// The gateway's page says of each provider of the catalogue which SDKs were tried and what is served.
func TestDocsHaveARowForEachProvider(t *testing.T) {
	_, table, _ := strings.Cut(readFile(t, "docs/gateway.md"), "| provider | SDKs tried | APIs served | not served |")
	table, _, _ = strings.Cut(table, "\n\n")
	var rows []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [^|]+ \\| [^|]+ \\| [^|]*\\|$").FindAllStringSubmatch(table, -1) {
		rows = append(rows, row[1])
	}
	require.ElementsMatch(t, gateway.Providers(), rows)
}

func TestDocsNameOnlyExistingMakeTargets(t *testing.T) {
	makeTarget, makeRule := regexp.MustCompile(`\bmake ([a-z-]+)`), regexp.MustCompile(`(?m)^([a-z-]+):`)
	var targets []string
	for _, m := range makeRule.FindAllStringSubmatch(readFile(t, "Makefile"), -1) {
		targets = append(targets, m[1])
	}
	named := 0
	for _, p := range readPages(t) {
		for _, line := range p.commands {
			for _, m := range makeTarget.FindAllStringSubmatch(line, -1) {
				named++
				require.Contains(t, targets, m[1], "%s says %q", p.file, line)
			}
		}
	}
	require.Greater(t, named, 10)
}

func TestDocsListTheProgramsProblems(t *testing.T) {
	problemRow := regexp.MustCompile("(?m)^\\| (\\d{3}) \\| `(\\w+)` \\| `([^`]+)` \\| ([^|]+) \\|")
	var served []string
	for _, row := range slices.Concat(aikeys.Problems(), dataplane.Problems(), secrets.Problems()) {
		served = append(served, fmt.Sprint(row.Status, " ", row.Code, " /problems/", row.Slug, " ", row.Title))
	}
	var refused []string
	for _, row := range gateway.Problems() {
		refused = append(refused, fmt.Sprint(row.Status, " ", row.Code, " /problems/", row.Slug, " ", row.Title))
	}
	for page, own := range map[string][]string{"docs/contract.md": served, "docs/gateway.md": refused} {
		var documented []string
		for _, m := range problemRow.FindAllStringSubmatch(readFile(t, page), -1) {
			documented = append(documented, strings.Join(m[1:], " "))
		}
		require.Greater(t, len(own), 10)
		slices.Sort(documented)
		slices.Sort(own)
		require.Equal(t, slices.Compact(own), documented, page)
	}
}

// bin is the folder of the programs, built as make does.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "docs"); err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(bin) }()
		if out, err := goBuild(bin+"/", "./cmd/...").CombinedOutput(); err != nil {
			panic(string(out))
		}
		return m.Run()
	}())
}

// goBuild returns the command that builds packages, named from the root of the repository.
func goBuild(to string, packages ...string) *exec.Cmd {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", to}, packages...)...)
	cmd.Dir, cmd.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// TestDocsGoProgramsCompile builds the blocks of Go that are whole programs.
func TestDocsGoProgramsCompile(t *testing.T) {
	programs := 0
	for _, p := range readPages(t) {
		for _, b := range p.blocks {
			if b.info != "go" || !strings.HasPrefix(b.text, "package main\n") {
				continue
			}
			programs++
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(b.text), 0o600), p.file)
			out, err := goBuild(filepath.Join(dir, "program"), filepath.Join(dir, "main.go")).CombinedOutput()
			require.NoError(t, err, "%s: %s", p.file, out)
		}
	}
	require.Positive(t, programs)
}

// newEnviron returns an environment without the developer's own settings, proxy and ~/.curlrc.
func newEnviron(t *testing.T) []string {
	t.Helper()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C"}
}

// help returns the help of a command.
func help(t *testing.T, command ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, command[0]), append(command[1:], "--help")...)
	cmd.Env = newEnviron(t)
	out, err := cmd.Output()
	require.NoError(t, err, "%s --help", strings.Join(command, " "))
	return string(out)
}

// onOneLine returns a text with its lines joined.
func onOneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// programs are the programs whose commands and messages the pages name. tare is left out, because it has its own page
// and its own tests.
var programs = []string{"aikeysd", "aikeys-gateway", "secrets-svc"}

func TestDocsNameOnlyExistingCommandsAndFlags(t *testing.T) {
	commandLine := regexp.MustCompile(`(?:^|[\s/(])(aikeysd|aikeys-gateway|secrets-svc)((?: +[^\s|>&;]+)*)`)
	commandWord := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	flagName := regexp.MustCompile(`^--[a-z-]+`)
	helps := map[string]string{}
	for _, p := range readPages(t) {
		for _, line := range p.commands {
			for _, m := range commandLine.FindAllStringSubmatch(line, -1) {
				words := strings.Fields(m[2])
				end := slices.IndexFunc(words, func(word string) bool { return !commandWord.MatchString(word) || slices.Contains(programs, word) })
				if end < 0 {
					end = len(words)
				}
				words, rest := append([]string{m[1]}, words[:end]...), words[end:]
				command := strings.Join(words, " ")
				if helps[command] == "" {
					helps[command] = onOneLine(help(t, words...))
				}
				require.Regexp(t, "Usage: "+regexp.QuoteMeta(command)+`( <[^>]+>)* \[`, helps[command], "%s says %q", p.file, line)
				for _, word := range rest {
					if flag := flagName.FindString(word); flag != "" {
						require.Contains(t, helps[command], flag+" ", "%s says %q", p.file, line)
					}
				}
			}
		}
	}
	require.Greater(t, len(helps), 12)
}

// TestHelpOfEveryCommand requires that the help of each command explains the command and shows how to run it.
// Descriptions fit a terminal of 80 columns. Commands to copy have at most 120 columns.
func TestHelpOfEveryCommand(t *testing.T) {
	examples := regexp.MustCompile(`(?s)\nExamples:\n(.*?)\n\n[A-Z][^\n]*:\n`)
	subcommand := regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) {2,}\S`) // a line that lists a command
	left := [][]string{{"tare"}}
	for _, program := range programs {
		left = append(left, []string{program})
	}
	shown := 0
	for ; len(left) > 0; left = left[1:] {
		command, name := left[0], strings.Join(left[0], " ")
		text := help(t, command...)
		for line := range strings.Lines(text) {
			require.LessOrEqual(t, len(strings.TrimSpace(line)), 120, name)
		}
		about, usage, found := strings.Cut(text, "\nUsage:\n")
		require.True(t, found, name)
		for line := range strings.Lines(about) {
			require.LessOrEqual(t, utf8.RuneCountInString(line), 81, name)
		}
		require.NotEmpty(t, about, name)
		if m := examples.FindStringSubmatch(usage); m != nil {
			about += m[1]
		}
		require.Contains(t, about, name, "%s: its help shows how to run it", name)
		commands, _, _ := strings.Cut(usage, "\nFlags:\n")
		for _, m := range subcommand.FindAllStringSubmatch(commands, -1) {
			if m[1] != "help" && m[1] != command[len(command)-1] && m[1] != command[0] {
				left = append(left, append(slices.Clone(command), m[1]))
			}
		}
		shown++
	}
	require.Greater(t, shown, 60)
}

// TestDocsListEverySetting compares each program's settings with the table on the program's page, and requires that no
// page names any other setting.
func TestDocsListEverySetting(t *testing.T) {
	settingName := regexp.MustCompile(`\b(?:AIKEYS|SECRETS_SVC)_[A-Z_]+`)
	settingRow := regexp.MustCompile("(?m)^\\| `((?:AIKEYS|SECRETS_SVC)_[A-Z_]+)` \\| (?:`([^`]*)` )?\\|")
	settingHelp := regexp.MustCompile(`\[((?:AIKEYS|SECRETS_SVC)_[A-Z_]+)\](?: \(default ([^)]+)\))?`)
	all := map[string]string{"AIKEYS_GATEWAY_": ""} // the prefix, which a page may name
	for program, file := range map[string]string{"aikeysd": "docs/operations.md", "aikeys-gateway": "docs/gateway.md", "secrets-svc": "docs/secrets.md"} {
		defaults, documented := map[string]string{}, map[string]string{}
		for _, m := range settingHelp.FindAllStringSubmatch(onOneLine(help(t, program, "serve")), -1) {
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
	all["AIKEYS_USER"], all["AIKEYS_VERSION"] = "", "" // of compose.yaml itself
	pages := readPages(t)
	for _, file := range []string{"compose.yaml", "deploy/helm/aikeys/templates/aikeysd.yaml", "deploy/helm/aikeys/templates/gateway.yaml"} {
		pages[file] = page{file: file, text: readFile(t, file)}
	}
	for _, p := range pages {
		for _, name := range settingName.FindAllString(p.text, -1) {
			require.Contains(t, all, name, p.file)
		}
	}
}

// TestDocsQuoteMessagesOfThePrograms requires that each message on the page about troubleshooting is in one of the programs.
func TestDocsQuoteMessagesOfThePrograms(t *testing.T) {
	messageRow := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
	var contents []string
	for _, name := range programs {
		content, err := os.ReadFile(filepath.Join(bin, name))
		require.NoError(t, err)
		contents = append(contents, string(content))
	}
	messages := messageRow.FindAllStringSubmatch(readFile(t, "docs/troubleshooting.md"), -1)
	require.Greater(t, len(messages), 10)
	var unknown []string
	for _, m := range messages {
		if !slices.ContainsFunc(contents, func(content string) bool { return strings.Contains(content, m[1]) }) {
			unknown = append(unknown, m[1])
		}
	}
	require.Empty(t, unknown, "no program has these messages")
}

// TestREADMEAndMetrics runs the README's steps as a reader would, one after the other on "aikeysd dev", and then compares the
// programs' metrics with the pages.
func TestREADMEAndMetrics(t *testing.T) {
	dir := t.TempDir()
	const anyPort = "127.0.0.1:0"
	dev := exec.CommandContext(context.Background(), filepath.Join(bin, "aikeysd"), "dev", "--listen", anyPort,
		"--dataplane-listen", anyPort, "--ops-listen", anyPort, "--gateway-listen", anyPort)
	dev.Dir, dev.Env = dir, newEnviron(t)
	output, err := dev.StdoutPipe()
	require.NoError(t, err)
	dev.Stderr = dev.Stdout
	require.NoError(t, dev.Start())
	var reading sync.WaitGroup
	t.Cleanup(func() {
		require.NoError(t, dev.Process.Signal(os.Interrupt))
		reading.Wait()
		require.NoError(t, dev.Wait())
	})
	opsAddress := regexp.MustCompile(`^  Ops +(http://\S+)`)
	gatewayOpsAddress := regexp.MustCompile(`listening gateway=\S+ ops=(http://\S+)`)
	opsURL, gatewayOpsURL := "", ""
	lines := bufio.NewScanner(output)
	for opsURL == "" || gatewayOpsURL == "" {
		require.True(t, lines.Scan(), "aikeysd dev has ended before it was ready")
		if m := opsAddress.FindStringSubmatch(lines.Text()); m != nil {
			opsURL = m[1]
		}
		if m := gatewayOpsAddress.FindStringSubmatch(lines.Text()); m != nil {
			gatewayOpsURL = m[1]
		}
	}
	reading.Go(func() { _, _ = io.Copy(io.Discard, output) }) // so that the program never blocks on its output

	// If a block of JSON follows a step, the step prints exactly this JSON, except for ids, times and tokens. If a
	// block of text follows a step, the step's output contains each line of the block.
	const stepInfo = "bash walk"
	blocks := readPages(t)["README.md"].blocks
	script := "set -euo pipefail\n"
	var wants, parts []string
	for i, b := range blocks {
		if b.info != stepInfo {
			continue
		}
		script += b.text + "printf '\\0'\n"
		want, part := "", ""
		switch {
		case i+1 < len(blocks) && blocks[i+1].info == "json":
			want = blocks[i+1].text
		case i+1 < len(blocks) && blocks[i+1].info == "text":
			part = blocks[i+1].text
		}
		wants, parts = append(wants, want), append(parts, part)
	}
	require.Greater(t, len(wants), 5)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
	withoutVariables := func(text string) string { // replaces what differs from run to run
		for _, variable := range []struct{ pattern, replacement string }{
			{`("(?:slowest_)?ms": ?)\d+`, `${1}0`},
			{`("next_page_token": ?)"[^"]+"`, `$1"TOKEN"`},
			{`[0-7][0-9A-HJKMNP-TV-Z]{25}`, "ULID"},
			{`\d{4}-\d\d-\d\dT[\d:.]+Z`, "TIME"},
		} {
			text = regexp.MustCompile(variable.pattern).ReplaceAllString(text, variable.replacement)
		}
		return text
	}
	for i, want := range wants {
		for line := range strings.Lines(parts[i]) {
			require.Contains(t, printed[i], strings.TrimSuffix(line, " …\n"))
		}
		if want != "" {
			require.JSONEq(t, withoutVariables(want), withoutVariables(printed[i]))
		} else if i > 0 && parts[i] == "" { // the first only loads the session
			require.Contains(t, printed[i], `"key`, "it shows a key, or keys")
			require.NotContains(t, printed[i], `"code"`, "it is no problem document")
		}
	}

	metricName := regexp.MustCompile(`\baikeys_[a-z_]+`)
	metricType := regexp.MustCompile(`(?m)^# TYPE (aikeys_\w+) `)
	metricPart := regexp.MustCompile(`_(bucket|count|sum)$`)
	for _, program := range []struct {
		page, opsURL string
		shown        []string // begins with the metrics of events that the steps don't cause
	}{
		{"docs/operations.md", opsURL, []string{"aikeys_feed_streams_ended_total"}},
		{"docs/gateway.md", gatewayOpsURL, []string{
			"aikeys_gateway_authorizations_total", "aikeys_gateway_upstream_seconds",
			"aikeys_dataplane_fetches_discarded_total",
		}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, program.opsURL+"/metrics", nil)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		require.NoError(t, errors.Join(err, response.Body.Close()))
		shown := program.shown
		for _, m := range metricType.FindAllStringSubmatch(string(text), -1) {
			shown = append(shown, m[1])
		}

		_, section, found := strings.Cut(readFile(t, program.page), "\n## Metrics and alerts\n")
		require.True(t, found)
		section, _, _ = strings.Cut(section, "\n## ")
		var documented []string
		for _, name := range metricName.FindAllString(section, -1) {
			if !strings.HasSuffix(name, "_") { // otherwise it is the beginning of several
				documented = append(documented, metricPart.ReplaceAllString(name, ""))
			}
		}
		slices.Sort(shown)
		slices.Sort(documented)
		require.Equal(t, slices.Compact(shown), slices.Compact(documented), program.page)
	}
}

// The name agentrouter-sdk on PyPI belongs to somebody else's package. If a line that this repository shows people or
// runs names this package, the line must also give a place to install our SDK from, or a warning.
func TestNothingLeadsToTheSDKsNameOnPyPI(t *testing.T) {
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z")
	list.Dir = repository
	files, err := list.Output()
	require.NoError(t, err)
	var said []struct{ place, line string }
	text := []string{".md", ".html", ".yaml", ".yml", ".json", ".txt", ".in", ".toml", ".py", ".tmpl", ".sh", ".mjs", ".ts", ".go"}
	for file := range strings.SplitSeq(strings.TrimRight(string(files), "\x00"), "\x00") {
		if !slices.Contains(text, path.Ext(file)) || file == "docs/docs_test.go" || strings.HasPrefix(file, "spec/released/") {
			continue
		}
		for line := range strings.Lines(strings.ReplaceAll(readFile(t, file), `\n`, "\n")) {
			if strings.Contains(strings.ToLower(line), "agentrouter") {
				said = append(said, struct{ place, line string }{file, line})
			}
		}
	}
	const noticed, passed = "noticed by this test", "passed by this test"
	for _, line := range []string{
		"pip install agentrouter-sdk", "python -m pip install -U agentrouter_sdk==0.1.1", "agentrouter-sdk", "agentrouter-sdk>=0.1",
		"uv add Agentrouter.SDK", `dependencies = ["agentrouter-sdk>=0.1"]`, "`agentrouter-sdk`",
	} {
		said = append(said, struct{ place, line string }{noticed, line})
	}
	for _, line := range []string{
		"pip install 'agentrouter-sdk @ https://keys.example.com/docs/downloads/a.tar.gz#sha256=00'", "from agentrouter_sdk import Client",
		"agentrouter-sdk @ file:./third_party/agentrouter-python-0.1.1", "npm install @tetrate/agentrouter-sdk", "pip install ./third_party/agentrouter-python-0.1.1",
	} {
		said = append(said, struct{ place, line string }{passed, line})
	}

	name := regexp.MustCompile(`(?i)(.?)\bagentrouter[-_.]+sdk\b(.{0,3})`) // what PyPI takes for the SDK's, and what is before and after it
	install := regexp.MustCompile(`(?i)\b(pip3?|pipx|uv|poetry|pdm|conda|rye)\b.*\b(install|add|sync|download|wheel|run)\b`)
	warnings := 0
	for _, s := range said {
		leads := false // to PyPI: the line names the distribution alone
		for _, m := range name.FindAllStringSubmatch(s.line, -1) {
			isNPM, hasPlace := m[1] == "/", strings.HasPrefix(m[2], " @ ")
			isModule := strings.Contains(strings.ToLower(m[0]), "agentrouter_sdk") && !install.MatchString(s.line)
			isOwnName := strings.HasPrefix(strings.TrimSpace(s.line), `name = "agentrouter-sdk"`)
			leads = leads || !isNPM && !hasPlace && !isModule && !isOwnName
		}
		if strings.Contains(s.line, "PyPI") {
			warnings++
			continue
		}
		require.Equal(t, s.place == noticed, leads, "%s: %s", s.place, s.line)
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

func TestSecurityPageNamesTestsThatExist(t *testing.T) {
	list := exec.CommandContext(t.Context(), "git", "grep", "-hoE", `^func Test\w+\(`, "--", "*_test.go", "sealer/sealertest/*.go")
	list.Dir = repository
	found, err := list.Output()
	require.NoError(t, err)
	tests := map[string]bool{}
	for line := range strings.Lines(string(found)) {
		tests[strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "func "), "(")] = true
	}
	text := readFile(t, "docs/security.md")
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1)
	require.Greater(t, len(named), 60)
	for _, m := range named {
		require.True(t, tests[m[1]], "docs/security.md names %s, which no package has", m[1])
	}

	_, section, _ := strings.Cut(text, "## Threats and answers")
	section, _, _ = strings.Cut(section, "\n## ")
	threats := 0
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| **") {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
			require.Len(t, cells, 3, line)
			require.Contains(t, cells[2], "`Test", "a threat whose answer no test holds")
			threats++
		}
	}
	require.Greater(t, threats, 20)
}
