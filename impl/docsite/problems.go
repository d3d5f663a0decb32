package docsite

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/agentrouter/aikeys/impl/problem"
)

// explanation is what the table of problems has no room for.
type explanation struct {
	// Code stands between backticks.
	Meaning string `yaml:"meaning"`
	Advice  string `yaml:"advice"`
	// Only names the API that alone answers with it; empty where the public one does too.
	Only string `yaml:"only"`
}

//go:embed problems.yaml
var explanationsYAML []byte

// explanations returns those of the file, by the slugs of their types.
func explanations() (map[string]explanation, error) {
	var texts map[string]explanation
	if err := yaml.Unmarshal(explanationsYAML, &texts); err != nil {
		return nil, fmt.Errorf("problems.yaml: %w", err)
	}
	return texts, nil
}

// problemPage is what the page of a type shows.
type problemPage struct {
	problem.Type
	explanation
	StatusText string
	Headers    []string
	Example    string
}

// Path is where a problem's type leads to.
func (p problemPage) Path() string { return "/problems/" + p.Slug }

// exampleID is the request id of all examples.
const exampleID = "01M83VVAHV8M2T5K7N9R4W1XYZ"

func problemPages() ([]problemPage, error) {
	texts, err := explanations()
	if err != nil {
		return nil, err
	}
	var pages []problemPage
	for _, t := range problem.Types() {
		example, headers, err := exampleOf(t)
		if err != nil {
			return nil, err
		}
		pages = append(pages, problemPage{
			Type: t, explanation: texts[t.Slug], StatusText: http.StatusText(t.Status), Headers: headers, Example: example,
		})
	}
	return pages, nil
}

// exampleOf has the service's own code answer, so that the example is as real answers are.
func exampleOf(t problem.Type) (body string, headers []string, err error) {
	document := t.Example(exampleID)
	if t.Slug == "invalid-argument" {
		document.Errors = []problem.Field{{Field: "name", Message: "is required"}}
	}
	answer := recorder{}
	problem.Write(&answer, document, nil)
	for _, name := range []string{"Content-Type", "WWW-Authenticate", "Retry-After"} {
		if value := answer.Header().Get(name); value != "" {
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
