// Command generate writes the files of impl/docsite/generated from the public API's document, spec/aikeys.yaml.
// "make generate" runs it in the folder impl/docsite. It imports nothing of ours.
//
// The document's servers are those of the repository. A reader wants the one they have reached, so the generated documents
// hold a placeholder in its place.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	source      = "../../spec/aikeys.yaml"
	destination = "generated/"
	// placeholder is docsite's baseURLPlaceholder.
	placeholder = "http://reader.invalid"
	servers     = "servers:\n  - url: " + placeholder + "\n    description: This installation.\n"
)

// summary is what the pages need of the document. The fields are those of docsite's summary.
type summary struct {
	Version string `json:"version"`
	Server  string `json:"server"` // the first one of the repository's document
	reference
}

type operation struct {
	ID          string     `json:"id" yaml:"operationId"`
	Method      string     `json:"method" yaml:"-"`
	Path        string     `json:"path" yaml:"-"`
	Tags        []string   `json:"tags" yaml:"tags"`
	Summary     string     `json:"summary" yaml:"summary"`
	Description string     `json:"description" yaml:"description"`
	Open        bool       `json:"open,omitempty" yaml:"-"` // it takes no credential
	Parameters  []field    `json:"parameters,omitempty" yaml:"-"`
	Body        *payload   `json:"body,omitempty" yaml:"-"`
	Responses   []response `json:"responses" yaml:"-"`
	Samples     []sample   `json:"samples" yaml:"x-codeSamples"`
}

type sample struct {
	Label  string `json:"label" yaml:"label"`
	Source string `json:"source" yaml:"source"`
}

func main() {
	log.SetFlags(0)
	if err := generate(); err != nil {
		log.Fatalf("%s: %v", source, err)
	}
}

func generate() error {
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	about, err := summarize(text)
	if err != nil {
		return err
	}
	asYAML, err := replaceServers(text)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(asYAML, &document); err != nil {
		return err
	}
	var asJSON bytes.Buffer
	if err := writeJSON(&asJSON, document.Content[0]); err != nil {
		return err
	}
	var indented, aboutJSON bytes.Buffer
	if err := json.Indent(&indented, asJSON.Bytes(), "", " "); err != nil {
		return err
	}
	if err := writeValue(&aboutJSON, about); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"openapi.yaml": asYAML, "openapi.json": append(indented.Bytes(), '\n'), "summary.json": append(aboutJSON.Bytes(), '\n'),
	} {
		if err := os.WriteFile(destination+name, content, 0o644); err != nil { //nolint:gosec // a source file like all others
			return err
		}
	}
	return nil
}

func summarize(text []byte) (summary, error) {
	var document struct {
		Info struct {
			Version string `yaml:"version"`
		} `yaml:"info"`
		Servers []struct {
			URL string `yaml:"url"`
		} `yaml:"servers"`
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		return summary{}, err
	}
	if len(document.Servers) == 0 {
		return summary{}, errors.New("the document has no servers")
	}
	ref, err := describeAPI(text)
	return summary{Version: document.Info.Version, Server: strings.TrimSuffix(document.Servers[0].URL, "/"), reference: ref}, err
}

// replaceServers replaces the block of servers and leaves every other byte as it is.
func replaceServers(text []byte) ([]byte, error) {
	before, block, found := bytes.Cut(text, []byte("\nservers:\n"))
	if !found {
		return nil, errors.New("the document has no servers")
	}
	end := 0
	for line := range bytes.Lines(block) {
		if line[0] != ' ' {
			break
		}
		end += len(line)
	}
	return bytes.Join([][]byte{before, []byte("\n" + servers), block[end:]}, nil), nil
}

// writeJSON keeps the document's order of members: it is the order in which people are meant to read them.
func writeJSON(out *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		separator := ""
		for name, value := range members(node) {
			out.WriteString(separator)
			separator = ","
			if err := writeValue(out, name); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := writeJSON(out, value); err != nil {
				return err
			}
		}
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, value := range node.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, value); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	case yaml.ScalarNode:
		var value any
		if err := node.Decode(&value); err != nil {
			return err
		}
		return writeValue(out, value)
	default:
		return fmt.Errorf("line %d: aliases are not supported", node.Line)
	}
	return nil
}

func writeValue(out *bytes.Buffer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	out.Truncate(out.Len() - 1) // the encoder ends with a new line
	return err
}

// members returns a mapping's names and values in their order; those of nil are none.
func members(mapping *yaml.Node) iter.Seq2[string, *yaml.Node] {
	return func(yield func(string, *yaml.Node) bool) {
		if mapping == nil {
			return
		}
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			if !yield(mapping.Content[i].Value, mapping.Content[i+1]) {
				return
			}
		}
	}
}
