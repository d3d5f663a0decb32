package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/itchyny/gojq"
	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// outputFormat is how results are printed.
type outputFormat string

// The formats.
const (
	formatTable outputFormat = "table"
	formatJSON  outputFormat = "json"
	formatYAML  outputFormat = "yaml"
)

// isForPeople reports whether to print results for people, rather than as documents.
func (p *program) isForPeople() bool { return p.flags.output == formatTable && p.flags.jq.query == nil }

// printResponse prints the service's last response as a document, or with printTable for people.
func (p *program) printResponse(s *session, printTable func() error) error {
	if p.isForPeople() {
		return printTable()
	}
	document, err := s.responses.document()
	if err != nil {
		return err
	}
	return p.printDocument(document)
}

// printDone prints the result of a command that calls no service: a line for people, or a value.
func (p *program) printDone(line string, value any) error {
	if p.isForPeople() {
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

// printDocument prints a JSON document, or the results of --jq.
func (p *program) printDocument(document []byte) error {
	if nestingDepth(document) > maxNesting {
		return fmt.Errorf("the answer is nested more than %d levels deep, unlike any of the service's", maxNesting)
	}
	document = p.redactJSON(document)
	if p.flags.jq.query != nil {
		return p.printFiltered(document)
	}
	text, err := p.formatDocument(document)
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.Stdout, text)
	return err
}

// formatDocument returns a JSON document as YAML if --output says so, otherwise as JSON. Names and values keep their order.
func (p *program) formatDocument(document []byte) (string, error) {
	if p.flags.output == formatYAML {
		text, err := jsonToYAML(document)
		return escapeUnsafe(text, escapeRune), err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.ToValidUTF8(bytes.TrimSpace(document), []byte("\ufffd")), "", "  "); err != nil {
		return "", err
	}
	return escapeUnsafe(b.String(), escapeJSONRune) + "\n", nil
}

// jqFlag is --jq: a program of the jq language.
type jqFlag struct{ query *gojq.Query }

// String implements pflag.Value.
func (f *jqFlag) String() string {
	if f.query == nil {
		return ""
	}
	return f.query.String()
}

// Set implements pflag.Value.
func (f *jqFlag) Set(text string) (err error) {
	if f.query, err = gojq.Parse(text); err != nil {
		return errors.New("must be a jq expression, such as '.keys[].id'")
	}
	return nil
}

// Type implements pflag.Value. Help shows it as the flag's argument.
func (f *jqFlag) Type() string { return "expression" }

// printFiltered prints each result of --jq on a line: strings without quotation marks, and anything else as JSON.
func (p *program) printFiltered(document []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return err
	}
	ctx := context.Background()
	if p.command != nil {
		ctx = p.command.Context()
	}
	results := p.flags.jq.query.RunWithContext(ctx, value)
	for {
		result, ok := results.Next()
		if !ok {
			return nil
		}
		if err := p.printResult(result); err != nil {
			return err
		}
	}
}

// printResult prints a result of --jq, which may be an error.
func (p *program) printResult(result any) error {
	switch result := result.(type) {
	case *gojq.HaltError:
		return nil
	case error:
		return cli.Usagef("--jq: %s", cli.OneLine(result.Error()))
	case string:
		return p.printLine(result)
	}
	text, err := gojq.Marshal(result)
	if err != nil {
		return err
	}
	return p.Say("%s", escapeUnsafe(string(text), escapeJSONRune))
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

// escapeUnsafe escapes unsafe characters of a JSON or YAML document. Unsafe characters occur only in strings, where an
// escape stands for the same character, so the document's values stay the same. escapeUnsafe keeps line ends, because
// they are part of the layout.
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
