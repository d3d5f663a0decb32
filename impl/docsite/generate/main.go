// Command generate writes the files of impl/docsite/generated from the public API's document, spec/aikeys.yaml. "make
// generate" runs it in the folder impl/docsite. Of our packages it imports only apiref, which has the types of
// summary.json.
//
// The generated documents have a placeholder in place of the servers in spec/aikeys.yaml, because each reader needs the
// URL of the installation that they have reached.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log"
	"os"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/impl/docsite/apiref"
)

const (
	source      = "../../spec/aikeys.yaml"
	destination = "generated/"
	servers     = "servers:\n  - url: " + apiref.Placeholder + "\n    description: This installation.\n"
)

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
	about, err := describeAPI(text)
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

// replaceServers replaces the block of servers and changes no other byte.
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

// writeJSON writes a node of the document. It keeps the order of members, which is chosen for readers.
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

// members returns a mapping's names and values in their order; nil has no members.
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
