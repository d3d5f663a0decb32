package aikeys_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// page is a Markdown page: README.md, docs/security.md.
type page struct{ file, text string }

// pages returns every page of the repository.
func pages(t *testing.T) []page {
	t.Helper()
	tree := os.DirFS(".")
	ignored := ignoredPaths(t, tree)
	var found []page
	require.NoError(t, fs.WalkDir(tree, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (file == ".git" || ignored(file)):
			return fs.SkipDir
		case path.Ext(file) != ".md":
			return nil
		}
		found = append(found, page{file, readText(t, file)})
		return nil
	}))
	require.Greater(t, len(found), 5)
	return found
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

// block is a fenced block of a page: what follows the opening fence, and the lines up to the closing one.
type block struct{ info, text string }

const fence = "```"

// parts takes the page apart: its fenced blocks, and the prose around them.
func (p page) parts() (blocks []block, prose string) {
	inside := false
	for line := range strings.Lines(p.text) {
		info, fenced := strings.CutPrefix(line, fence)
		switch {
		case fenced && inside:
			inside = false
		case fenced:
			inside = true
			blocks = append(blocks, block{info: strings.TrimSpace(info)})
		case inside:
			blocks[len(blocks)-1].text += line
		default:
			prose += line
		}
	}
	return blocks, prose
}

func (p page) blocks() []block {
	blocks, _ := p.parts()
	return blocks
}

func (p page) prose() string {
	_, prose := p.parts()
	return prose
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// spans are what the prose has between backticks, each on one line.
func (p page) spans() []string {
	var found []string
	for _, m := range codeSpan.FindAllStringSubmatch(p.prose(), -1) {
		found = append(found, strings.Join(strings.Fields(m[1]), " "))
	}
	return found
}

var shellComment = regexp.MustCompile(`(?m)(^|\s)#.*$`)

// commands are the lines that a reader may run: those of shell blocks, without comments, and the spans.
func (p page) commands() []string {
	lines := p.spans()
	for _, b := range p.blocks() {
		if language, _, _ := strings.Cut(b.info, " "); language == "bash" {
			text := shellComment.ReplaceAllString(strings.ReplaceAll(b.text, "\\\n", " "), "")
			lines = append(lines, strings.Split(text, "\n")...)
		}
	}
	return lines
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the page's headings as links name them.
func (p page) anchors() []string {
	var found []string
	for _, m := range heading.FindAllStringSubmatch(p.prose(), -1) {
		found = append(found, strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return found
}

func TestEveryLinkOfThePagesLeadsSomewhere(t *testing.T) {
	links := 0
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			target, anchor, _ := strings.Cut(m[1], "#")
			file := p.file
			if target != "" {
				file = path.Join(path.Dir(p.file), target)
				require.FileExists(t, file, "%s links to %s", p.file, m[1])
			}
			if anchor != "" {
				require.Contains(t, page{file, readText(t, file)}.anchors(), anchor, "%s links to %s", p.file, m[1])
			}
		}
	}
	require.Greater(t, links, 30)
}

var filePath = regexp.MustCompile(`^\.?[\w-]+(/[\w.*-]+)*/?$`)

func TestEveryFileNamedInThePagesExists(t *testing.T) {
	ignored := ignoredPaths(t, os.DirFS("."))
	named := 0
	for _, p := range pages(t) {
		for _, span := range p.spans() {
			top, _, isPath := strings.Cut(span, "/")
			if entry, err := os.Stat(top); !isPath || err != nil || !entry.IsDir() || ignored(top) || !filePath.MatchString(span) {
				continue
			}
			named++
			matches, err := fs.Glob(os.DirFS("."), strings.TrimSuffix(span, "/"))
			require.NoError(t, err)
			require.NotEmpty(t, matches, "%s names %s", p.file, span)
		}
	}
	require.Greater(t, named, 50)
}

var (
	makeTarget = regexp.MustCompile(`\bmake ([a-z-]+)`)
	makeRule   = regexp.MustCompile(`(?m)^([a-z-]+):`)
)

func TestEveryMakeTargetNamedInThePagesExists(t *testing.T) {
	var targets []string
	for _, m := range makeRule.FindAllStringSubmatch(readText(t, "Makefile"), -1) {
		targets = append(targets, m[1])
	}
	named := 0
	for _, p := range pages(t) {
		for _, line := range p.commands() {
			for _, m := range makeTarget.FindAllStringSubmatch(line, -1) {
				named++
				require.Contains(t, targets, m[1], "%s says %q", p.file, line)
			}
		}
	}
	require.Greater(t, named, 10)
}

var problemRow = regexp.MustCompile("(?m)^\\| (\\d{3}) \\| `(\\w+)` \\| `([^`]+)` \\| ([^|]+) \\|")

func TestTheTablesOfProblemsAreTheProgramsOwn(t *testing.T) {
	for page, table := range map[string][]string{
		"docs/contract.md": {"impl/problem/table.go"},
		"docs/gateway.md":  {"dataplane/gateway/table.go", "dataplane/gateway/problem.go"},
	} {
		var documented, own []string
		for _, m := range problemRow.FindAllStringSubmatch(readText(t, page), -1) {
			documented = append(documented, strings.Join(m[1:], " "))
		}
		for _, file := range table {
			own = append(own, problemsOf(t, file)...)
		}
		require.Greater(t, len(own), 10)
		slices.Sort(documented)
		slices.Sort(own)
		require.Equal(t, slices.Compact(own), documented, page)
	}
}

// problemsOf reads the rows of a table of problems: status, code, type and title. Its texts stand in the row itself, or are
// constants of the file.
func problemsOf(t *testing.T, file string) []string {
	t.Helper()
	source, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	statuses := map[string]int{} // by the name of net/http's constant
	for status := range 600 {
		statuses["Status"+strings.ReplaceAll(http.StatusText(status), " ", "")] = status
	}
	constants := map[string]ast.Expr{}
	var rows []string
	ast.Inspect(source, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
			for i, name := range spec.Names {
				constants[name.Name] = spec.Values[i]
			}
		}
		literal, ok := node.(*ast.CompositeLit)
		if !ok || len(literal.Elts) != 6 {
			return true
		}
		status, ok := literal.Elts[1].(*ast.SelectorExpr)
		if !ok {
			return true
		}
		texts := make([]string, 3) // code, slug, title
		for i, element := range literal.Elts[2:5] {
			if name, ok := element.(*ast.Ident); ok {
				element = constants[name.Name]
			}
			text, ok := element.(*ast.BasicLit)
			require.True(t, ok, "a row's texts are literals")
			texts[i], err = strconv.Unquote(text.Value)
			require.NoError(t, err)
		}
		require.Contains(t, statuses, status.Sel.Name)
		rows = append(rows, fmt.Sprintf("%d %s /problems/%s %s", statuses[status.Sel.Name], texts[0], texts[1], texts[2]))
		return true
	})
	return rows
}

// sources returns the text of the hand-written and generated Go files in the folders, without tests.
func sources(t *testing.T, folders ...string) string {
	t.Helper()
	var text strings.Builder
	tree := os.DirFS(".")
	for _, top := range folders {
		require.NoError(t, fs.WalkDir(tree, top, func(file string, _ fs.DirEntry, err error) error {
			if err == nil && path.Ext(file) == ".go" && !isTest(file) {
				text.WriteString(readText(t, file))
			}
			return err
		}))
	}
	return text.String()
}

var messageRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

func TestEveryMessageInTroubleshootingIsOneOfOurs(t *testing.T) {
	source := sources(t, "cmd", "dataplane", "impl", "models", "sealer")
	messages := messageRow.FindAllStringSubmatch(readText(t, "docs/troubleshooting.md"), -1)
	require.Greater(t, len(messages), 10)
	var strange []string
	for _, m := range messages {
		if !strings.Contains(source, m[1]) {
			strange = append(strange, m[1])
		}
	}
	require.Empty(t, strange, "no source says that")
}
