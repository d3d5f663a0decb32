package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// outputFormat is how results are printed.
type outputFormat string

// The formats.
const (
	formatTable outputFormat = "table"
	formatJSON  outputFormat = "json"
	formatYAML  outputFormat = "yaml"
)

// printResponse prints the service's last response as it came, or with printTable for people.
func (p *program) printResponse(s *session, printTable func() error) error {
	if p.flags.output == formatTable {
		return printTable()
	}
	document, err := s.responses.document()
	if err != nil {
		return err
	}
	return p.printDocument(document)
}

// printDone prints what a command did to the profiles: a line for people, or a value.
func (p *program) printDone(line string, value any) error {
	if p.flags.output == formatTable {
		return p.printLine(line)
	}
	return p.printValue(value)
}

// printValue prints a value that is not a response of the service.
func (p *program) printValue(value any) error {
	document, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return p.printDocument(document)
}

// printDocument prints a JSON document as JSON or YAML. Names and values keep their order.
func (p *program) printDocument(document []byte) error {
	if nestingDepth(document) > maxNesting {
		return fmt.Errorf("the answer is nested more than %d deep, which the service's answers are not", maxNesting)
	}
	document = p.redactJSON(document)
	if p.flags.output == formatYAML {
		text, err := jsonToYAML(document)
		if err != nil {
			return err
		}
		_, err = p.Stdout.Write([]byte(escapeUnsafe(text, escapeRune)))
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.ToValidUTF8(bytes.TrimSpace(document), []byte("\ufffd")), "", "  "); err != nil {
		return err
	}
	return p.Say("%s", escapeUnsafe(b.String(), escapeJSONRune))
}

// maxNesting limits how deeply arrays and objects are nested. Each level indents its lines further, so without a limit a
// few KiB could become GiB.
const maxNesting = 32

func nestingDepth(document []byte) int {
	deepest, depth := 0, 0
	for i := 0; i < len(document); i++ {
		switch document[i] {
		case '"':
			i = stringEnd(document, i) - 1
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		}
	}
	return deepest
}

// escapeUnsafe escapes unsafe characters of a JSON or YAML document. They can only be in strings, so the document's values
// stay the same. Line ends belong to the layout.
func escapeUnsafe(document string, escape func(rune) string) string {
	var b strings.Builder
	for _, r := range document {
		if isUnsafe(r) && r != '\n' && r != '\ufffd' {
			b.WriteString(escape(r))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// escapeJSONRune escapes characters beyond U+FFFF as JSON does, as two surrogates.
func escapeJSONRune(r rune) string {
	if r <= 0xffff {
		return escapeRune(r)
	}
	r -= 0x10000
	return fmt.Sprintf(`\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
}

func jsonToYAML(document []byte) (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	node, err := readYAMLNode(decoder)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	err = encoder.Encode(node)
	return b.String(), err
}

// readYAMLNode reads the next JSON value. Building nodes keeps the order of names and the digits of numbers.
func readYAMLNode(decoder *json.Decoder) (*yaml.Node, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	node := &yaml.Node{}
	switch value := token.(type) {
	case json.Delim:
		node.Kind = yaml.SequenceNode
		if value == '{' {
			node.Kind = yaml.MappingNode
		}
		for decoder.More() {
			item, err := readYAMLNode(decoder)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, item)
		}
		if len(node.Content) == 0 {
			node.Style = yaml.FlowStyle
		}
		_, err := decoder.Token() // the closing bracket
		return node, err
	case json.Number:
		node.Kind, node.Value = yaml.ScalarNode, value.String()
		return node, nil
	case string:
		err := node.Encode(value)
		if strings.ContainsFunc(value, isUnsafe) {
			node.Style = yaml.DoubleQuotedStyle // the only style with escapes
		}
		return node, err
	default: // a boolean or null
		err := node.Encode(value)
		return node, err
	}
}
