package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/impl/docsite/apiref"
)

// schema has the members of a schema that the reference shows.
type schema struct {
	Ref         string    `yaml:"$ref"`
	Type        string    `yaml:"type"`
	Format      string    `yaml:"format"`
	Description string    `yaml:"description"`
	Enum        []string  `yaml:"enum"`
	MayBe       []string  `yaml:"x-extensible-enum"`
	Secret      bool      `yaml:"x-secret"`
	Default     yaml.Node `yaml:"default"`
	Example     yaml.Node `yaml:"example"`
	Minimum     *int64    `yaml:"minimum"`
	Maximum     *int64    `yaml:"maximum"`
	MinLength   *int64    `yaml:"minLength"`
	MaxLength   *int64    `yaml:"maxLength"`
	MinItems    *int64    `yaml:"minItems"`
	MaxItems    *int64    `yaml:"maxItems"`
	Required    []string  `yaml:"required"`
	Properties  yaml.Node `yaml:"properties"`
	Items       *schema   `yaml:"items"`
	Additional  yaml.Node `yaml:"additionalProperties"`
}

// document is the API's document.
type document struct {
	root   yaml.Node
	linked map[string]bool // the names of objects that fields link to
}

// find decodes a node into value, or the component that the node refers to, and returns the component's name.
func (d *document) find(node *yaml.Node, value any) (name string, err error) {
	for at, n := range members(node) {
		if at != "$ref" {
			continue
		}
		path := strings.Split(strings.TrimPrefix(n.Value, "#/"), "/")
		node, name = &d.root, path[len(path)-1]
		for _, part := range path {
			if node = member(node, part); node == nil {
				return "", fmt.Errorf("line %d: nothing is at %s", n.Line, n.Value)
			}
		}
		break
	}
	return name, node.Decode(value)
}

// component returns the schema that s refers to, or s itself if it is not a reference.
func (d *document) component(s *schema) (*schema, string, error) {
	if s.Ref == "" {
		return s, "", nil
	}
	node := yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: "$ref"}, {Kind: yaml.ScalarNode, Value: s.Ref}}}
	found := &schema{}
	name, err := d.find(&node, found)
	return found, name, err
}

// describe completes a field from its schema.
func (d *document) describe(f *apiref.Field, given *schema) error {
	s, name, err := d.component(given)
	if err != nil {
		return err
	}
	if f.Description == "" {
		f.Description = strings.TrimSpace(s.Description)
	}
	f.Values, f.MayGrow = s.Enum, len(s.MayBe) > 0
	if f.MayGrow {
		f.Values = s.MayBe
	}
	f.Limits, f.Type = limits(s), s.Type
	if s.Format == "date-time" {
		f.Type = "time"
	}
	f.Default = s.Default.Value
	if f.Example == "" {
		f.Example = s.Example.Value
	}
	inner := s.Items
	if s.Type == "object" && s.Additional.Kind == yaml.MappingNode {
		inner = &schema{}
		if err := s.Additional.Decode(inner); err != nil {
			return err
		}
	}
	switch {
	case inner != nil:
		of := apiref.Field{}
		if err := d.describe(&of, inner); err != nil {
			return err
		}
		f.Object = of.Object
		if f.Values == nil {
			f.Values, f.MayGrow = of.Values, of.MayGrow
		}
		if f.Type = "list of " + of.Type; s.Type == "object" {
			f.Type = "map of " + of.Type
		}
	case s.Type == "object" && name != "":
		f.Object, f.Type = name, name
		d.linked[name] = true
	}
	return nil
}

func limits(s *schema) string {
	var all []string
	between := func(low, high *int64, unit string) {
		switch {
		case low != nil && high != nil && *low == *high:
			all = append(all, fmt.Sprintf("%d%s", *low, unit))
		case low != nil && high != nil:
			all = append(all, fmt.Sprintf("%d to %d%s", *low, *high, unit))
		case high != nil:
			all = append(all, fmt.Sprintf("at most %d%s", *high, unit))
		case low != nil:
			all = append(all, fmt.Sprintf("at least %d%s", *low, unit))
		}
	}
	if len(s.Enum) == 0 && s.Format == "" {
		between(s.MinLength, s.MaxLength, " characters")
	}
	between(s.Minimum, s.Maximum, "")
	between(s.MinItems, s.MaxItems, " entries")
	return strings.Join(all, ", ")
}

// fields returns the members of an object.
func (d *document) fields(s *schema) (all []apiref.Field, err error) {
	for name, node := range members(&s.Properties) {
		f := apiref.Field{Name: name}
		for _, required := range s.Required {
			f.Required = f.Required || required == name
		}
		var of schema
		if err := node.Decode(&of); err != nil {
			return nil, err
		}
		if err := d.describe(&f, &of); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// read returns the JSON body of a request or response; nil if it has none.
func (d *document) read(body *yaml.Node) (*apiref.Payload, error) {
	media := member(member(body, "content"), "application/json")
	if media == nil {
		return nil, nil
	}
	var of struct {
		Schema   schema    `yaml:"schema"`
		Examples yaml.Node `yaml:"examples"`
	}
	if err := media.Decode(&of); err != nil {
		return nil, err
	}
	s, _, err := d.component(&of.Schema)
	if err != nil {
		return nil, err
	}
	var c apiref.Payload
	if c.Fields, err = d.fields(s); err != nil {
		return nil, err
	}
	c.Secret, err = d.hasSecret(s)
	if err != nil {
		return nil, err
	}
	for _, node := range members(&of.Examples) {
		var e struct {
			Summary string    `yaml:"summary"`
			Value   yaml.Node `yaml:"value"`
		}
		if _, err := d.find(node, &e); err != nil {
			return nil, err
		}
		var line, text bytes.Buffer
		if err := writeJSON(&line, &e.Value); err != nil {
			return nil, err
		}
		if err := json.Indent(&text, line.Bytes(), "", "  "); err != nil {
			return nil, err
		}
		c.Examples = append(c.Examples, apiref.Example{Summary: e.Summary, Text: text.String()})
	}
	return &c, nil
}

// hasSecret reports whether an object has a member, or a list of members, that is marked as secret.
func (d *document) hasSecret(s *schema) (bool, error) {
	for _, node := range members(&s.Properties) {
		var given schema
		if err := node.Decode(&given); err != nil {
			return false, err
		}
		of, _, err := d.component(&given)
		if err == nil && of.Items != nil {
			of, _, err = d.component(of.Items)
		}
		if err != nil || of.Secret {
			return err == nil, err
		}
	}
	return false, nil
}

// parameters returns a list of parameters, or headers by their names.
func (d *document) parameters(nodes []*yaml.Node) (all []apiref.Field, err error) {
	for _, node := range nodes {
		var p struct {
			Name        string    `yaml:"name"`
			In          string    `yaml:"in"`
			Required    bool      `yaml:"required"`
			Description string    `yaml:"description"`
			Example     yaml.Node `yaml:"example"`
			Schema      schema    `yaml:"schema"`
		}
		if _, err := d.find(node, &p); err != nil {
			return nil, err
		}
		f := apiref.Field{Name: p.Name, In: p.In, Required: p.Required, Description: strings.TrimSpace(p.Description), Example: p.Example.Value}
		if err := d.describe(&f, &p.Schema); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		all = append(all, f)
	}
	return all, nil
}

// operation completes an operation from its node and the node of its path.
func (d *document) operation(o *apiref.Operation, item, node *yaml.Node) (err error) {
	var shared, own []*yaml.Node
	if n := member(item, "parameters"); n != nil {
		shared = n.Content
	}
	if n := member(node, "parameters"); n != nil {
		own = n.Content
	}
	if o.Parameters, err = d.parameters(append(shared[:len(shared):len(shared)], own...)); err != nil {
		return err
	}
	if security := member(node, "security"); security != nil {
		o.Open = len(security.Content) == 0
	}
	if o.Body, err = d.read(member(node, "requestBody")); err != nil {
		return err
	}
	for status, given := range members(member(node, "responses")) {
		var found yaml.Node
		if _, err := d.find(given, &found); err != nil {
			return err
		}
		r := apiref.Response{Status: status}
		if err := member(&found, "description").Decode(&r.Description); err != nil {
			return err
		}
		for name, header := range members(member(&found, "headers")) {
			h, err := d.parameters([]*yaml.Node{header})
			if err != nil {
				return err
			}
			h[0].Name = name
			r.Headers = append(r.Headers, h[0])
		}
		body, err := d.read(&found)
		if err != nil {
			return err
		}
		if body != nil {
			r.Payload = *body
		}
		o.Responses = append(o.Responses, r)
	}
	return nil
}

// describeAPI returns the summary of a document.
func describeAPI(text []byte) (apiref.Summary, error) {
	d := document{linked: map[string]bool{}}
	var whole yaml.Node
	if err := yaml.Unmarshal(text, &whole); err != nil {
		return apiref.Summary{}, err
	}
	d.root = *whole.Content[0]
	var about struct {
		Info struct {
			Version     string `yaml:"version"`
			Description string `yaml:"description"`
		} `yaml:"info"`
		Servers []struct {
			URL string `yaml:"url"`
		} `yaml:"servers"`
		Tags []apiref.Group `yaml:"tags"`
	}
	if err := whole.Decode(&about); err != nil {
		return apiref.Summary{}, err
	}
	if len(about.Servers) == 0 {
		return apiref.Summary{}, errors.New("the document has no servers")
	}
	ref := apiref.Summary{
		Version: about.Info.Version, Server: strings.TrimSuffix(about.Servers[0].URL, "/"),
		Description: about.Info.Description, Groups: about.Tags,
	}
	for path, item := range members(member(&d.root, "paths")) {
		for method, node := range members(item) {
			if method == "parameters" {
				continue
			}
			o := apiref.Operation{Method: strings.ToUpper(method), Path: path}
			err := node.Decode(&o)
			if err == nil {
				err = d.operation(&o, item, node)
			}
			if err != nil {
				return apiref.Summary{}, fmt.Errorf("%s %s: %w", method, path, err)
			}
			ref.Operations = append(ref.Operations, o)
		}
	}
	err := d.objects(&ref)
	return ref, err
}

// objects adds the objects that fields link to. Fields of these objects may link to further objects.
func (d *document) objects(ref *apiref.Summary) error {
	all := map[string]apiref.Object{}
	schemas := member(member(&d.root, "components"), "schemas")
	for isNew := true; isNew; {
		isNew = false
		for name, node := range members(schemas) {
			if _, known := all[name]; known || !d.linked[name] {
				continue
			}
			var s schema
			if err := node.Decode(&s); err != nil {
				return err
			}
			fields, err := d.fields(&s)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			all[name], isNew = apiref.Object{Name: name, Description: strings.TrimSpace(s.Description), Fields: fields}, true
		}
	}
	for name := range members(schemas) {
		if o, linked := all[name]; linked {
			ref.Objects = append(ref.Objects, o)
		}
	}
	return nil
}

// member returns a member's value; nil if the mapping is nil or has no such member.
func member(mapping *yaml.Node, name string) *yaml.Node {
	for n, value := range members(mapping) {
		if n == name {
			return value
		}
	}
	return nil
}
