// Package docs_test checks the repository's Markdown pages: that what they name exists, and that what they say of the programs is
// true.
package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/secrets"
)

// repository is the root of the repository, seen from the folder that this package's tests run in.
const repository = ".."

// page is a Markdown page; its file is seen from the root: README.md, docs/security.md.
type page struct{ file, text string }

// readPages returns every page of the repository.
func readPages(t *testing.T) []page {
	t.Helper()
	var pages []page
	require.NoError(t, fs.WalkDir(os.DirFS(repository), ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (entry.Name()[0] == '.' || entry.Name() == "node_modules"):
			return fs.SkipDir
		case path.Ext(file) == ".md":
			pages = append(pages, page{file, readFile(t, file)})
		}
		return nil
	}))
	require.Greater(t, len(pages), 5)
	return pages
}

// readFile returns the text of a file, whose name is seen from the root.
func readFile(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(path.Join(repository, file))
	require.NoError(t, err)
	return string(text)
}

// block is a fenced block of a page: what follows the opening fence, and the lines up to the closing one.
type block struct{ info, text string }

// split returns the page's fenced blocks, and the prose around them.
func (p page) split() (blocks []block, prose string) {
	inside := false
	for line := range strings.Lines(p.text) {
		info, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && inside:
			inside = false
		case isFence:
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

func (p page) prose() string {
	_, prose := p.split()
	return prose
}

var (
	codeSpan     = regexp.MustCompile("`([^`]+)`")
	shellComment = regexp.MustCompile(`(?m)(^|\s)#.*$`)
)

// codeSpans returns what the prose has between backticks, each on one line.
func (p page) codeSpans() (spans []string) {
	for _, m := range codeSpan.FindAllStringSubmatch(p.prose(), -1) {
		spans = append(spans, strings.Join(strings.Fields(m[1]), " "))
	}
	return spans
}

// commands returns the lines that a reader may run: those of shell blocks, without comments, and the code spans.
func (p page) commands() []string {
	lines := p.codeSpans()
	blocks, _ := p.split()
	for _, b := range blocks {
		if language, _, _ := strings.Cut(b.info, " "); language == "bash" {
			text := shellComment.ReplaceAllString(strings.ReplaceAll(b.text, "\\\n", " "), "")
			lines = append(lines, strings.Split(text, "\n")...)
		}
	}
	return lines
}

func TestDocsLinksResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading, notSlug := regexp.MustCompile(`(?m)^#+ (.+)$`), regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	links := 0
	for _, p := range readPages(t) {
		for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
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
				for _, m := range heading.FindAllStringSubmatch(page{file, readFile(t, file)}.prose(), -1) {
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
		for _, span := range p.codeSpans() {
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
		for _, line := range p.commands() {
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
