package docsite

import (
	"bytes"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"mime"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"

	"github.com/agentrouter/aikeys/docs"
)

const (
	guidesPath = "/docs/guides"
	// repository is the target of links to files that this service does not show.
	repository = "https://github.com/agentrouter/aikeys/blob/main/"
)

// shelf is a group of guides.
type shelf struct {
	Name   string
	Guides []*guide
}

// guide is a page of docs/, rendered.
type guide struct {
	Name     string // of the file, without .md
	Title    string
	Sections []section // the first one is before all headings
	HTML     template.HTML
}

// Path is the path of the guide's page.
func (g *guide) Path() string { return guidesPath + "/" + g.Name }

// section is a heading of a guide with the text below it, up to the next one.
type section struct {
	ID, Title string
	Level     int
	Text      string
}

// shelfOrder is the order in which the pages list the guides. Guides that it does not name are on the last shelf.
var shelfOrder = []struct{ name, guides string }{
	{"Use it", "console tare contract leaks"},
	{"Gateways", "gateway gateways litellm portkey agent dataplane"},
	{"Run it", "install compose kubernetes operations troubleshooting security secrets kms openbao awskms gcpkms rewrapping"},
	{"Look inside", "glossary architecture feed decisions"},
}

func loadShelves() ([]shelf, error) {
	files, err := fs.Glob(docs.Guides, "*.md")
	if err != nil {
		return nil, err
	}
	rest := map[string]bool{}
	for _, file := range files {
		rest[strings.TrimSuffix(file, ".md")] = file != "README.md"
	}
	var shelves []shelf
	for i, order := range shelfOrder {
		names := strings.Fields(order.guides)
		for _, name := range names {
			rest[name] = false
		}
		if i == len(shelfOrder)-1 {
			for _, name := range slices.Sorted(maps.Keys(rest)) {
				if rest[name] {
					names = append(names, name)
				}
			}
		}
		s := shelf{Name: order.name}
		for _, name := range names {
			g, err := renderGuide(name)
			if err != nil {
				return nil, err
			}
			s.Guides = append(s.Guides, g)
		}
		shelves = append(shelves, s)
	}
	return shelves, nil
}

// markdown renders CommonMark with tables. Raw HTML is left out.
var markdown = goldmark.New(goldmark.WithExtensions(extension.Table), goldmark.WithParserOptions(parser.WithAutoHeadingID()))

// markdownToHTML renders a text of the API's document.
func markdownToHTML(source string) (template.HTML, error) {
	var out bytes.Buffer
	err := markdown.Convert([]byte(source), &out)
	return template.HTML(out.String()), err //nolint:gosec // the text is our own, and raw HTML is left out
}

// emptyHead matches the empty head of a table: Markdown has no tables without a head.
var emptyHead = regexp.MustCompile(`<thead>\s*<tr>\s*(<td></td>\s*)+</tr>\s*</thead>\s*`)

func renderGuide(name string) (*guide, error) {
	source, err := docs.Guides.ReadFile(name + ".md")
	if err != nil {
		return nil, err
	}
	g := &guide{Name: name, Sections: []section{{}}}
	root := markdown.Parser().Parse(text.NewReader(source), parser.WithContext(parser.NewContext(parser.WithIDs(slugs{}))))
	err = ast.Walk(root, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			g.visit(node, source)
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := markdown.Renderer().Render(&out, source, root); err != nil {
		return nil, fmt.Errorf("docsite: docs/%s.md: %w", name, err)
	}
	html := strings.NewReplacer("<table>", `<div class="wide"><table>`, "</table>", "</table></div>", "<th></th>", "<td></td>").Replace(out.String())
	html = emptyHead.ReplaceAllString(html, "")
	g.HTML = template.HTML(html) //nolint:gosec // the text is our own, and raw HTML is left out
	return g, nil
}

// visit directs a node's link to this service's pages, and gathers headings and text.
func (g *guide) visit(node ast.Node, source []byte) {
	at := &g.Sections[len(g.Sections)-1]
	switch n := node.(type) {
	case *ast.Link:
		n.Destination = []byte(guideLink(string(n.Destination)))
	case *ast.Image:
		n.Destination = []byte(guideLink(string(n.Destination)))
	case *ast.Heading:
		title := plainText(n, source)
		if n.Level == 1 {
			g.Title = title
			return
		}
		id, _ := n.AttributeString("id")
		slug, _ := id.([]byte)
		g.Sections = append(g.Sections, section{ID: string(slug), Title: title, Level: n.Level})
	case *ast.FencedCodeBlock:
		at.Text += " " + string(n.Lines().Value(source))
	case *ast.Text:
		if node.Parent().Kind() != ast.KindHeading {
			at.Text += string(n.Value(source))
			if n.SoftLineBreak() || n.NextSibling() == nil {
				at.Text += " "
			}
		}
	}
}

func plainText(node ast.Node, source []byte) string {
	var out strings.Builder
	_ = ast.Walk(node, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the function returns no error
		if t, ok := n.(*ast.Text); ok && entering {
			out.Write(t.Value(source))
		}
		return ast.WalkContinue, nil
	})
	return out.String()
}

// guideLink returns where a link of a guide leads in this service. A file that it does not show is in the repository.
func guideLink(link string) string {
	target, anchor, hasAnchor := strings.Cut(link, "#")
	switch {
	case target == "" || strings.Contains(target, "://"):
		return link
	case path.Ext(target) == ".md" && !strings.Contains(target, "/") && target != "README.md":
		target = guidesPath + "/" + strings.TrimSuffix(target, ".md")
	case target == "../spec/aikeys.yaml":
		target = "/openapi.yaml"
	default:
		if _, err := fs.Stat(docs.Guides, target); err == nil {
			target = guidesPath + "/" + target
		} else {
			target = repository + path.Join("docs", target)
		}
	}
	if hasAnchor {
		target += "#" + anchor
	}
	return target
}

// guideFiles returns the images and the samples of the guides by their paths. Samples are plain text, so that no
// browser runs them.
func guideFiles() (map[string]resource, error) {
	files := map[string]resource{}
	err := fs.WalkDir(docs.Guides, ".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(file) == ".md" {
			return err
		}
		body, err := docs.Guides.ReadFile(file)
		contentType := mime.TypeByExtension(path.Ext(file))
		if !strings.HasPrefix(contentType, "image/") {
			contentType = "text/plain; charset=utf-8"
		}
		files[guidesPath+"/"+file] = resource{contentType: contentType, body: newContent(body)}
		return err
	})
	return files, err
}

// slugs makes the ids of headings as GitHub does, so that the guides' links work in both places.
type slugs map[string]int

// Generate implements parser.IDs.
func (s slugs) Generate(heading []byte, _ ast.NodeKind) []byte {
	var out strings.Builder
	for _, r := range strings.ToLower(string(heading)) {
		switch {
		case r == ' ':
			out.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
			out.WriteRune(r)
		}
	}
	slug := out.String()
	seen := s[slug]
	s[slug]++
	if seen > 0 {
		slug += "-" + strconv.Itoa(seen)
	}
	return []byte(slug)
}

// Put implements parser.IDs.
func (s slugs) Put(slug []byte) { s[string(slug)]++ }
