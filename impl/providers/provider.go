// Package providers is the provider catalogue: which providers there are, where their keys may go and in what header,
// and which secrets cannot be one of their keys. The facts are data, in spec/providers.yaml; this package reads, checks
// and applies them.
//
// A catalogue never changes after [Load] and may be shared between goroutines. No error of [Catalogue.CheckSecret]
// holds any part of the secret, so it may be shown, logged and stored.
//
// It may import spec, and nothing else of ours.
package providers

import (
	"slices"
	"strings"
)

// AuthStyle is how a provider takes its key in a request.
type AuthStyle string

// The known styles, with the header that each fills in.
const (
	AuthBearer      AuthStyle = "bearer"         // Authorization: Bearer KEY
	AuthXAPIKey     AuthStyle = "x_api_key"      // x-api-key: KEY
	AuthXGoogAPIKey AuthStyle = "x_goog_api_key" //nolint:gosec // G101: a header, x-goog-api-key: KEY
	AuthAPIKey      AuthStyle = "api_key"        // api-key: KEY
	AuthAWSSigV4    AuthStyle = "aws_sigv4"      // Authorization: AWS4-HMAC-SHA256 ..., signed with the credential
	AuthGCPOAuth    AuthStyle = "gcp_oauth"      // Authorization: Bearer ACCESS_TOKEN, exchanged for the credential
)

// SecretFormat is the shape of a provider's secret.
type SecretFormat string

// The known formats.
const (
	FormatToken SecretFormat = "token" // one line of visible ASCII
	FormatJSON  SecretFormat = "json"  // a JSON object, its members described by Provider.Fields
)

// Provider is one entry of the catalogue. spec/providers.yaml says what each field means.
type Provider struct {
	Slug         string       `yaml:"slug"`
	DisplayName  string       `yaml:"display_name"`
	BaseURL      string       `yaml:"base_url"` // https, no trailing slash; {name} stands for the credential's field
	AuthStyle    AuthStyle    `yaml:"auth_style"`
	SecretFormat SecretFormat `yaml:"secret_format"`
	Prefixes     []Prefix     `yaml:"prefixes"`  // none: nothing is known of how its keys begin
	Fields       []Field      `yaml:"fields"`    // FormatJSON only
	KeyField     string       `yaml:"key_field"` // the field that goes into the header; empty: the whole credential is needed
	KeyPage      string       `yaml:"key_page"`
	Example      string       `yaml:"example"` // a made-up secret of the right shape
}

// Prefix is one way in which a provider's keys begin.
type Prefix struct {
	Value       string `yaml:"value"`
	Distinctive bool   `yaml:"distinctive"` // no other provider's keys begin so
}

// Field is one member of a JSON credential; its value is a non-empty string.
type Field struct {
	Name      string   `yaml:"name"`
	Optional  bool     `yaml:"optional"`
	OneOf     []string `yaml:"one_of"`    // the only values accepted; none: any
	Multiline bool     `yaml:"multiline"` // may hold spaces and line ends
}

// RequiredFields returns the names of the members that a credential must have, in the catalogue's order; never nil, and
// empty for a token.
func (p Provider) RequiredFields() []string {
	names := []string{}
	for _, f := range p.Fields {
		if !f.Optional {
			names = append(names, f.Name)
		}
	}
	return names
}

// KnownPrefixes returns how the provider's keys are known to begin, in the catalogue's order; never nil.
func (p Provider) KnownPrefixes() []string {
	values := []string{}
	for _, prefix := range p.Prefixes {
		values = append(values, prefix.Value)
	}
	return values
}

// longestPrefix returns the length in bytes of the longest of the provider's prefixes that the secret begins with, 0
// where there is none. With distinctive, only distinctive prefixes count.
func (p Provider) longestPrefix(secret string, distinctive bool) int {
	longest := 0
	for _, prefix := range p.Prefixes {
		if (prefix.Distinctive || !distinctive) && len(prefix.Value) > longest && strings.HasPrefix(secret, prefix.Value) {
			longest = len(prefix.Value)
		}
	}
	return longest
}

// clone copies the provider down to its slices, so that a caller cannot change the catalogue.
func (p Provider) clone() Provider {
	p.Prefixes = slices.Clone(p.Prefixes)
	p.Fields = slices.Clone(p.Fields)
	for i := range p.Fields {
		p.Fields[i].OneOf = slices.Clone(p.Fields[i].OneOf)
	}
	return p
}
