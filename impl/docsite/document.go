package docsite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// document is the public API's document, as it is served and as the pages need it.
type document struct {
	// yaml and json have the mark where the reader's base URL goes.
	yaml, json []byte
	// server is the first server of the document in the repository.
	server     string
	version    string
	operations []operation
}

// operation is one operation of the document, in its order.
type operation struct {
	ID      string `yaml:"operationId"`
	Summary string `yaml:"summary"`
	Samples []struct {
		Label  string `yaml:"label"`
		Source string `yaml:"source"`
	} `yaml:"x-codeSamples"`

	Method string `yaml:"-"`
	Path   string `yaml:"-"`
}

// sample returns the code in one language, named as in the document.
func (o operation) sample(label string) string {
	for _, s := range o.Samples {
		if s.Label == label {
			return strings.TrimSpace(s.Source)
		}
	}
	return ""
}

// The document's servers are those of the repository; here they are the one that the reader has reached.
const servers = "servers:\n  - url: " + baseMark + "\n    description: This installation.\n"

func newDocument(text []byte) (*document, error) {
	d := &document{}
	var head struct {
		Info struct {
			Version string `yaml:"version"`
		} `yaml:"info"`
		Servers []struct {
			URL string `yaml:"url"`
		} `yaml:"servers"`
	}
	if err := yaml.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("API document: %w", err)
	}
	if len(head.Servers) == 0 {
		return nil, errors.New("API document: no servers")
	}
	d.version, d.server = head.Info.Version, strings.TrimSuffix(head.Servers[0].URL, "/")
	var err error
	if d.yaml, err = withServers(text); err != nil {
		return nil, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(d.yaml, &root); err != nil {
		return nil, fmt.Errorf("API document: %w", err)
	}
	var out bytes.Buffer
	if err := writeJSON(&out, root.Content[0]); err != nil {
		return nil, fmt.Errorf("API document: %w", err)
	}
	d.json = append(out.Bytes(), '\n')
	d.operations, err = operationsOf(member(root.Content[0], "paths"))
	return d, err
}

// withServers puts ours in the place of the block of servers, and leaves every other byte as it is.
func withServers(text []byte) ([]byte, error) {
	before, block, found := bytes.Cut(text, []byte("\nservers:\n"))
	if !found {
		return nil, errors.New("API document: no servers")
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

func operationsOf(paths *yaml.Node) ([]operation, error) {
	var all []operation
	for path, item := range members(paths) {
		for method, node := range members(item) {
			if method == "parameters" {
				continue
			}
			o := operation{Method: strings.ToUpper(method), Path: path}
			if err := node.Decode(&o); err != nil {
				return nil, fmt.Errorf("API document: %s %s: %w", method, path, err)
			}
			all = append(all, o)
		}
	}
	return all, nil
}

// writeJSON writes a node with its members in the document's order, in which people are meant to read them.
func writeJSON(out *bytes.Buffer, node *yaml.Node) error {
	switch node.Kind {
	case yaml.MappingNode:
		separator := byte('{')
		for name, value := range members(node) {
			out.WriteByte(separator)
			separator = ','
			if err := writeValue(out, name); err != nil {
				return err
			}
			out.WriteByte(':')
			if err := writeJSON(out, value); err != nil {
				return err
			}
		}
		if separator == '{' {
			out.WriteByte('{')
		}
		out.WriteByte('}')
		return nil
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
		return nil
	case yaml.ScalarNode:
		var value any
		if err := node.Decode(&value); err != nil {
			return err
		}
		return writeValue(out, value)
	default:
		return fmt.Errorf("line %d: only mappings, sequences and scalars are known", node.Line)
	}
}

func writeValue(out *bytes.Buffer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	out.Truncate(out.Len() - 1) // the encoder ends with a new line
	return err
}

// members are a mapping's, in their order.
func members(node *yaml.Node) func(yield func(string, *yaml.Node) bool) {
	return func(yield func(string, *yaml.Node) bool) {
		for i := 0; node != nil && i+1 < len(node.Content); i += 2 {
			if !yield(node.Content[i].Value, node.Content[i+1]) {
				return
			}
		}
	}
}

func member(node *yaml.Node, name string) *yaml.Node {
	for found, value := range members(node) {
		if found == name {
			return value
		}
	}
	return nil
}
