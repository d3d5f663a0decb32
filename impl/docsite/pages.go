package docsite

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/impl/docsite/apiref"
	"github.com/agentrouter/aikeys/internal/problem"
)

// missingPath is the path under which renderPages returns the page for paths that do not exist. No request has this
// path.
const missingPath = ""

//go:embed templates
var templateFiles embed.FS

// material is the content that all pages can show.
type material struct {
	Assets   map[string]asset
	API      *apiref.Summary
	SDKs     []sdk
	Programs []program
	Problems []problemPage
	Shelves  []shelf
}

// view is the data of a page's template.
type view struct {
	*material

	Title       string
	Description string
	Path        string       // the page's own
	Section     string       // the path of the navigation's entry that the page belongs to
	Base        string       // the reader's base URL; empty on a page that does not show it
	Problem     *problemPage // on the page of a problem type
	Guide       *guide       // on the page of a guide
}

// Sample returns an operation's sample in one language.
func (v view) Sample(operationID, label string) string {
	for _, o := range v.API.Operations {
		if o.ID != operationID {
			continue
		}
		for _, s := range o.Samples {
			if s.Label == label {
				return strings.TrimSpace(s.Source)
			}
		}
	}
	return ""
}

// HasDownloads reports whether there is an SDK to download.
func (v view) HasDownloads() bool {
	return slices.ContainsFunc(v.SDKs, func(s sdk) bool { return s.File != "" })
}

type navigationEntry struct {
	Path, Label string
	Here        bool
}

// templateFunctions are what templates can call besides the view's methods.
func templateFunctions() template.FuncMap {
	return template.FuncMap{
		"entry": func(v view, path, label string) navigationEntry {
			return navigationEntry{path, label, v.Section == path}
		},
		"languages": func(v view, operationID string) []apiref.Sample {
			var all []apiref.Sample
			for _, label := range []string{"Go", "Python", "TypeScript", "CLI"} {
				all = append(all, apiref.Sample{Label: label, Source: v.Sample(operationID, label)})
			}
			return all
		},
		"prose":    proseToHTML,
		"markdown": markdownToHTML,
		"trim":     strings.TrimSpace,
		"anchor":   func(title string) string { return string(slugs{}.Generate([]byte(title), 0)) },
	}
}

// proseToHTML escapes a text, and marks text between backticks as code.
func proseToHTML(text string) template.HTML {
	var out strings.Builder
	for i, part := range strings.Split(text, "`") {
		part = template.HTMLEscapeString(part)
		if i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		out.WriteString(part)
	}
	return template.HTML(out.String()) //nolint:gosec // every part is escaped above
}

// renderPages returns the pages by their paths, and completes m.
func renderPages(m *material, types []problem.Type) (map[string]resource, error) {
	templates, err := template.New("pages").Funcs(templateFunctions()).ParseFS(templateFiles, "templates/*.html", "templates/llms.txt")
	if err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	if m.Problems, err = problemPages(types); err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	if m.Shelves, err = loadShelves(); err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	if m.Assets, err = loadAssets(m); err != nil {
		return nil, err
	}
	pages := map[string]resource{}
	for name, views := range views(m) {
		for _, v := range views {
			v.material = m
			var out bytes.Buffer
			if err := templates.ExecuteTemplate(&out, name, v); err != nil {
				return nil, fmt.Errorf("docsite: %s: %w", v.Path, err)
			}
			page := resource{contentType: "text/html; charset=utf-8", body: newContent(out.Bytes()), policy: pagePolicy}
			switch name {
			case "reference.html":
				page.policy = referencePolicy
			case "llms.txt":
				page.contentType, page.policy = "text/plain; charset=utf-8", filePolicy
				page.body = newContent([]byte(html.UnescapeString(out.String()))) // html/template has escaped it
			}
			pages[v.Path] = page
		}
	}
	return pages, nil
}

// views returns the data of all pages, by the names of their templates.
func views(m *material) map[string][]view {
	all := map[string][]view{
		"missing.html": {{Path: missingPath, Title: "No such page", Description: "There is no such page."}},
		"llms.txt":     {{Path: "/llms.txt", Base: apiref.Placeholder}},
	}
	for _, p := range mainPages {
		all[p.template] = []view{{Path: p.path, Section: p.path, Title: p.title, Description: p.description}}
		if p.saysBase {
			all[p.template][0].Base = apiref.Placeholder
		}
	}
	for _, s := range m.Shelves {
		for _, g := range s.Guides {
			v := view{Path: g.Path(), Section: guidesPath, Title: g.Title, Description: "A guide to AI Keys: " + g.Title + ".", Guide: g}
			all["guide.html"] = append(all["guide.html"], v)
		}
	}
	for i := range m.Problems {
		p := &m.Problems[i]
		v := view{Path: p.Path(), Section: "/docs/problems", Title: p.Title, Problem: p}
		v.Description = strings.ReplaceAll(p.Meaning, "`", "")
		all["problem.html"] = append(all["problem.html"], v)
	}
	return all
}

// mainPages are the pages in the navigation, with the texts that the search finds them by.
var mainPages = []struct {
	template, path, title, description string

	saysBase bool // it shows the reader's base URL
}{
	{"reference.html", "/docs", "API reference", "Every method of the API, with samples in five languages.", false},
	{"start.html", "/docs/getting-started", "Getting started", "Register a provider's key, see it serve, revoke it: in five minutes.", true},
	{"guides.html", guidesPath, "Guides", "How to use AI Keys, run it, and mend it.", false},
	{"sdks.html", "/docs/sdks", "SDKs", "The SDKs for Go, Python and TypeScript, and how to install them.", true},
	{"downloads.html", "/docs/downloads", "Downloads", "The programs to install: tare, and the servers.", true},
	{"problems.html", "/docs/problems", "Problems", "Every problem that the API answers with, what it means, and what to do.", false},
}

// explanation is a text about a problem type, in addition to the tables of problems. Code is between backticks.
type explanation struct {
	Meaning string `yaml:"meaning"`
	Advice  string `yaml:"advice"`
	Only    string `yaml:"only"` // the only API that answers with the type; empty if the public API does
	// Gateway is the type's row in the gateway's table, for a type that no table of an API has.
	Gateway *gatewayRow `yaml:"gateway"`
}

// gatewayRow is a type's row in the gateway's table of problems.
type gatewayRow struct {
	Status  int      `yaml:"status"`
	Code    string   `yaml:"code"`
	Title   string   `yaml:"title"`
	Details []string `yaml:"details"`
}

//go:embed problems.yaml
var explanationsYAML []byte

// readExplanations returns the explanations by the slugs of their types.
func readExplanations() (map[string]explanation, error) {
	var texts map[string]explanation
	if err := yaml.Unmarshal(explanationsYAML, &texts); err != nil {
		return nil, fmt.Errorf("problems.yaml: %w", err)
	}
	return texts, nil
}

// problemPage is the content of a problem type's page.
type problemPage struct {
	problem.Type
	explanation
	StatusText string
	Headers    []string
	Example    string
}

// Path is the path that the type's URI leads to.
func (p problemPage) Path() string { return "/problems/" + p.Slug }

// exampleID is the request ID in all examples.
const exampleID = "01M83VVAHV8M2T5K7N9R4W1XYZ"

func problemPages(types []problem.Type) ([]problemPage, error) {
	texts, err := readExplanations()
	if err != nil {
		return nil, err
	}
	var pages []problemPage
	for _, t := range types {
		body, headers, err := exampleResponse(t)
		if err != nil {
			return nil, err
		}
		pages = append(pages, problemPage{
			Type: t, explanation: texts[t.Slug], StatusText: http.StatusText(t.Status), Headers: headers, Example: body,
		})
	}
	for _, slug := range slices.Sorted(maps.Keys(texts)) {
		if row := texts[slug].Gateway; row != nil { // without an example: gateways' documents have another member
			t := problem.Type{Row: problem.Row{Status: row.Status, Code: row.Code, Slug: slug, Title: row.Title}, Details: row.Details}
			pages = append(pages, problemPage{Type: t, explanation: texts[slug], StatusText: http.StatusText(row.Status)})
		}
	}
	slices.SortStableFunc(pages, func(a, b problemPage) int { return a.Status - b.Status })
	return pages, nil
}

// exampleResponse returns an example of a response. The service's own code sets the headers, so that the example equals
// a real response.
func exampleResponse(t problem.Type) (body string, headers []string, err error) {
	document := t.Document(exampleID)
	if t.Slug == "invalid-argument" {
		document.Errors = []problem.Field{{Field: "name", Message: "is required"}}
	}
	response := headerRecorder{}
	problem.Write(response, document, nil)
	for _, name := range []string{"Content-Type", "WWW-Authenticate", "Retry-After"} {
		if value := response.Header().Get(name); value != "" {
			headers = append(headers, name+": "+value)
		}
	}
	var indented strings.Builder
	encoder := json.NewEncoder(&indented)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err = encoder.Encode(document)
	return strings.TrimSpace(indented.String()), headers, err
}

// headerRecorder is a ResponseWriter that keeps only the headers.
type headerRecorder http.Header

// Header implements http.ResponseWriter.
func (r headerRecorder) Header() http.Header { return http.Header(r) }

// Write implements http.ResponseWriter.
func (headerRecorder) Write(body []byte) (int, error) { return len(body), nil }

// WriteHeader implements http.ResponseWriter.
func (headerRecorder) WriteHeader(int) {}
