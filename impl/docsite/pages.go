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

	"github.com/agentrouter/aikeys/internal/problem"
)

// missingPath is the path under which renderPages returns the page for browsers that ask for what is not there. No request has it.
const missingPath = ""

//go:embed templates
var templateFiles embed.FS

// view is what a page's template sees.
type view struct {
	Title       string
	Description string
	Path        string // the page's own
	Section     string // the path of the navigation's entry that the page belongs to
	Base        string
	Assets      map[string]asset
	API         *summary
	SDKs        []sdk
	Programs    []program
	Problems    []problemPage
	Problem     *problemPage // on the page of a problem type
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

type (
	navigationEntry struct {
		Path, Label string
		Here        bool
	}
	languageSample struct{ Label, Source string }
)

// templateFunctions are what templates can call besides the view's methods.
func templateFunctions() template.FuncMap {
	return template.FuncMap{
		"entry": func(v view, path, label string) navigationEntry {
			return navigationEntry{path, label, v.Section == path}
		},
		"languages": func(v view, operationID string) []languageSample {
			var all []languageSample
			for _, label := range []string{"Go", "Python", "TypeScript", "CLI"} {
				all = append(all, languageSample{label, v.Sample(operationID, label)})
			}
			return all
		},
		"prose": proseToHTML,
	}
}

// proseToHTML escapes a text and makes code of what stands between backticks.
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

// renderPages returns the pages by their paths.
func renderPages(api *summary, sdks []sdk, programs []program, assets map[string]asset, types []problem.Type) (map[string]resource, error) {
	templates, err := template.New("pages").Funcs(templateFunctions()).ParseFS(templateFiles, "templates/*.html", "templates/llms.txt")
	if err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	problems, err := problemPages(types)
	if err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	pages := map[string]resource{}
	add := func(name string, v view) error {
		v.Base, v.Assets, v.API, v.SDKs, v.Programs, v.Problems = baseURLPlaceholder, assets, api, sdks, programs, problems
		var out bytes.Buffer
		if err := templates.ExecuteTemplate(&out, name, v); err != nil {
			return fmt.Errorf("docsite: %s: %w", v.Path, err)
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
		return nil
	}
	for name, v := range map[string]view{
		"reference.html": {Path: "/docs", Section: "/docs", Title: "API reference",
			Description: "Every method of the API, with samples in five languages."},
		"start.html": {Path: "/docs/getting-started", Section: "/docs/getting-started", Title: "Getting started",
			Description: "Register a provider's key, see it serve, revoke it: in five minutes."},
		"sdks.html": {Path: "/docs/sdks", Section: "/docs/sdks", Title: "SDKs",
			Description: "The SDKs for Go, Python and TypeScript, and how to install them."},
		"downloads.html": {Path: "/docs/downloads", Section: "/docs/downloads", Title: "Downloads",
			Description: "The programs to install: tare, and the servers."},
		"problems.html": {Path: "/docs/problems", Section: "/docs/problems", Title: "Problems",
			Description: "Every problem that the API answers with, what it means, and what to do."},
		"missing.html": {Path: missingPath, Title: "No such page", Description: "There is no such page."},
		"llms.txt":     {Path: "/llms.txt"},
	} {
		if err := add(name, v); err != nil {
			return nil, err
		}
	}
	for i := range problems {
		p := &problems[i]
		v := view{Path: p.Path(), Section: "/docs/problems", Title: p.Title, Problem: p}
		v.Description = strings.ReplaceAll(p.Meaning, "`", "")
		if err := add("problem.html", v); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// explanation is the text about a problem type, which a table of problems does not have. Code stands between backticks.
type explanation struct {
	Meaning string `yaml:"meaning"`
	Advice  string `yaml:"advice"`
	Only    string `yaml:"only"` // the only API that answers with the type; empty if the public API does
	// Gateway is the type's row in the gateway's table, for a type that no table of an API has.
	Gateway *gatewayRow `yaml:"gateway"`
}

// gatewayRow is what the gateway's table of problems says about a type.
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

// problemPage is what the page of a problem type shows.
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

// exampleResponse takes the headers from the service's own code, so that the example equals a real response.
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

// headerRecorder is a ResponseWriter that keeps nothing but the headers.
type headerRecorder http.Header

// Header implements http.ResponseWriter.
func (r headerRecorder) Header() http.Header { return http.Header(r) }

// Write implements http.ResponseWriter.
func (headerRecorder) Write(body []byte) (int, error) { return len(body), nil }

// WriteHeader implements http.ResponseWriter.
func (headerRecorder) WriteHeader(int) {}
