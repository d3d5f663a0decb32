package docsite

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"
)

// view is what the templates see.
type view struct {
	Title       string
	Description string
	// Path is the page's own; Section is the entry of the navigation that it belongs to.
	Path, Section string
	Base          string
	Assets        map[string]asset
	Document      *document
	SDKs          []sdk
	Problems      []problemPage
	Problem       *problemPage
}

// Sample is the code of an operation in one language.
func (v view) Sample(operationID, label string) string {
	for _, o := range v.Document.operations {
		if o.ID == operationID {
			return o.sample(label)
		}
	}
	return ""
}

// Operations are those of the document.
func (v view) Operations() []operation { return v.Document.operations }

// Version is the document's.
func (v view) Version() string { return v.Document.version }

// HasDownloads tells whether there is anything to download.
func (v view) HasDownloads() bool {
	for _, s := range v.SDKs {
		if s.File != "" {
			return true
		}
	}
	return false
}

// entry is one of the navigation.
type entry struct {
	Path, Label string
	Here        bool
}

// code is a sample of one language.
type code struct{ Label, Source string }

// functions are what templates can call beside the view's methods.
func functions() template.FuncMap {
	return template.FuncMap{
		"entry": func(v view, path, label string) entry { return entry{path, label, v.Section == path} },
		"languages": func(v view, operationID string) []code {
			var all []code
			for _, label := range []string{"Go", "Python", "TypeScript", "CLI"} {
				all = append(all, code{label, v.Sample(operationID, label)})
			}
			return all
		},
		"prose": prose,
	}
}

// prose marks what stands between backticks as code.
func prose(text string) template.HTML {
	var out strings.Builder
	for i, part := range strings.Split(text, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		out.WriteString(part)
	}
	return template.HTML(out.String()) //nolint:gosec // every part of it is escaped
}

// render makes the pages, by their paths.
func render(document *document, sdks []sdk, assets map[string]asset) (map[string]resource, error) {
	templates, err := template.New("pages").Funcs(functions()).ParseFS(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	problems, err := problemPages()
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	pages := map[string]resource{}
	add := func(name string, v view) error {
		v.Base, v.Assets, v.Document, v.SDKs, v.Problems = baseMark, assets, document, sdks, problems
		var out bytes.Buffer
		if err := templates.ExecuteTemplate(&out, name, v); err != nil {
			return fmt.Errorf("pages: %s: %w", v.Path, err)
		}
		policy := pagePolicy
		if name == "reference.html" {
			policy = referencePolicy
		}
		pages[v.Path] = resource{contentType: "text/html; charset=utf-8", content: contentOf(out.Bytes()), policy: policy}
		return nil
	}
	for name, v := range map[string]view{
		"reference.html": {Path: "/docs", Section: "/docs", Title: "API reference",
			Description: "Every method of the API, with samples in five languages."},
		"start.html": {Path: "/docs/getting-started", Section: "/docs/getting-started", Title: "Getting started",
			Description: "Register a provider's key, see it serve, revoke it: in five minutes."},
		"sdks.html": {Path: "/docs/sdks", Section: "/docs/sdks", Title: "SDKs",
			Description: "The SDKs for Go, Python and TypeScript, and how to install them."},
		"problems.html": {Path: "/docs/problems", Section: "/docs/problems", Title: "Problems",
			Description: "Every problem that the API answers with, what it means, and what to do."},
	} {
		if err := add(name, v); err != nil {
			return nil, err
		}
	}
	for i := range problems {
		p := &problems[i]
		v := view{Path: p.Path(), Section: "/docs/problems", Title: p.Title, Description: strings.ReplaceAll(p.Meaning, "`", ""), Problem: p}
		if err := add("problem.html", v); err != nil {
			return nil, err
		}
	}
	return pages, nil
}
