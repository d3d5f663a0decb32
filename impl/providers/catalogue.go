// Package providers is the provider catalogue: which providers exist, where their keys may go and in which header, and which
// secrets can't be one of their keys. The facts are data, in spec/providers.yaml; this package reads, checks and applies them.
//
// A catalogue never changes after [Load] and may be shared between goroutines. The errors of [Catalogue.CheckSecret]
// hold no part of the secret, so they may be shown, logged and stored.
//
// The package may import spec, sealer and leaves.
package providers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/internal/verdict"
	"github.com/agentrouter/aikeys/spec"
)

// ErrCatalogue is wrapped by every error of [Load]: the catalogue's file is invalid.
var ErrCatalogue = errors.New("provider catalogue is invalid")

// Catalogue is the set of known providers. [Load] makes it.
type Catalogue struct {
	providers []Provider
}

// Load reads and checks the catalogue that is embedded in the program. It fails only if that file is invalid, and its error
// lists everything that is wrong.
func Load() (*Catalogue, error) {
	return parse(spec.ProvidersYAML())
}

func parse(document []byte) (*Catalogue, error) {
	var file struct {
		Providers []Provider `yaml:"providers"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(document))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCatalogue, err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one document", ErrCatalogue)
	}
	c := &Catalogue{providers: file.Providers}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCatalogue, err)
	}
	return c, nil
}

// WithoutRoles returns the catalogue without credentials that name a role to assume. It is for a service that assumes
// no roles.
func (c *Catalogue) WithoutRoles() *Catalogue {
	without := &Catalogue{providers: slices.Clone(c.providers)}
	for i := range without.providers {
		p := &without.providers[i]
		p.Alternatives = slices.DeleteFunc(slices.Clone(p.Alternatives), func(group []string) bool { return slices.Contains(group, fieldRole) })
	}
	return without
}

// All returns every provider, in the file's order. The caller must not change them.
func (c *Catalogue) All() []Provider { return c.providers }

// Lookup returns the provider with exactly this slug. The caller must not change its slices and maps.
func (c *Catalogue) Lookup(slug string) (Provider, bool) {
	for _, p := range c.providers {
		if p.Slug == slug {
			return p, true
		}
	}
	return Provider{}, false
}

// Slugs returns every provider's slug, in the file's order.
func (c *Catalogue) Slugs() []string {
	slugs := make([]string, 0, len(c.providers))
	for _, p := range c.providers {
		slugs = append(slugs, p.Slug)
	}
	return slugs
}

// validate returns everything that is wrong with the catalogue, joined.
func (c *Catalogue) validate() error {
	if len(c.providers) == 0 {
		return errors.New("no providers")
	}
	var errs []error
	slugs := map[string]bool{}
	owners := map[string]Provider{} // :: prefix → the first provider that lists it
	distinctive := map[string]bool{}
	for _, p := range c.providers {
		if slugs[p.Slug] {
			errs = append(errs, fmt.Errorf("%s: slug is taken", p.Slug))
		}
		slugs[p.Slug] = true
		for _, prefix := range p.Prefixes {
			owner, taken := owners[prefix.Value]
			if taken && (prefix.Distinctive || distinctive[prefix.Value] || owner.Slug == p.Slug) {
				errs = append(errs, fmt.Errorf("%s: prefix %q is also listed by %s", p.Slug, prefix.Value, owner.Slug))
			}
			owners[prefix.Value], distinctive[prefix.Value] = p, prefix.Distinctive
		}
		if err := p.validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.Slug, err))
		}
	}
	return errors.Join(errs...)
}

var (
	administrationPattern = regexp.MustCompile(`^(/([A-Za-z0-9_-]+|\*)(:[A-Za-z]+)?)+$`)
	routePattern          = regexp.MustCompile(`^(/([A-Za-z0-9_-]+|\*))+$`)
	routeHostPattern      = regexp.MustCompile(`^(\*-)?[a-z0-9-]+(\.[a-z0-9-]+)+$`)
	cloudHostPattern      = regexp.MustCompile(`^\*(\.[a-z0-9-]+){2,}$`)
	tokenURLPattern       = regexp.MustCompile(`^https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[a-z0-9.]+|/\{tenant_id\})+$`)
	slugPattern           = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	placeholderPattern    = regexp.MustCompile(`\{([^{}]*)\}`)
)

// styles are the auth styles of providers; a route may have one of the first four.
var (
	styles   = []AuthStyle{AuthBearer, AuthXAPIKey, AuthXGoogAPIKey, AuthAPIKey, AuthAWSSigV4, AuthGCPOAuth}
	dialects = []Dialect{DialectOpenAI, DialectPerplexity, DialectAnthropic, DialectGoogle}
)

// validate checks one provider by itself.
func (p Provider) validate() error {
	checks := []struct {
		bad  bool
		text string
	}{
		{!slugPattern.MatchString(p.Slug), "slug is not lower-case letters, digits and underscores"},
		{p.DisplayName == "", "display_name is missing"},
		{!isBaseURL(placeholderPattern.ReplaceAllString(p.BaseURL, "x")), "base_url is not a plain https URL"},
		{!slices.Contains(styles, p.AuthStyle), "auth_style is unknown"},
		{!slices.Contains(dialects, p.Dialect), "dialect is unknown"},
		{slices.Contains(p.KnownPrefixes(), ""), "a prefix is empty"},
		{slices.ContainsFunc(p.Administration, func(path string) bool { return !administrationPattern.MatchString(path) }), "administration has an entry that is not a path"},
		{slices.ContainsFunc(p.Unserved, func(u Unserved) bool {
			return !administrationPattern.MatchString(u.Path) || u.What == "" || u.Why == ""
		}),
			"unserved has an entry without a path or a sentence"},
		{!isPattern(p.NamedByURL), "named_by_url is not a regular expression for a whole path"},
		{p.Answers.Validate() != nil, "answers has an invalid rule"},
		{!isHTTPS(p.KeyPage), "key_page is not an https URL"},
		{p.Example == "", "example is missing"},
	}
	errs := []error{p.validateFormat()}
	for _, check := range checks {
		if check.bad {
			errs = append(errs, errors.New(check.text))
		}
	}
	for _, r := range p.Routes {
		errs = append(errs, r.validate())
	}
	for _, cloud := range p.Clouds {
		errs = append(errs, cloud.validate())
	}
	errs = append(errs, p.validateVerify(), p.validateFields())
	return errors.Join(errs...)
}

// validateFields checks the fields of the credential, and the fields that the base URL names.
func (p Provider) validateFields() error {
	var errs []error
	for _, match := range placeholderPattern.FindAllStringSubmatch(p.BaseURL, -1) {
		if !p.isRequired(match[1]) && len(p.Clouds) == 0 {
			errs = append(errs, fmt.Errorf("base_url names %q, which is not a required field", match[1]))
		}
	}
	if slices.ContainsFunc(p.Alternatives, func(group []string) bool { return slices.Contains(group, fieldEndpoint) }) != (len(p.Clouds) > 0) {
		errs = append(errs, errors.New("clouds and the field endpoint go together"))
	}
	for _, group := range p.Alternatives {
		for _, name := range group {
			if i := slices.IndexFunc(p.Fields, func(f Field) bool { return f.Name == name }); i < 0 || !p.Fields[i].Optional {
				errs = append(errs, fmt.Errorf("alternatives name %q, which is not an optional field", name))
			}
		}
	}
	seen := map[string]bool{"": true}
	for _, f := range p.Fields {
		if seen[f.Name] {
			errs = append(errs, fmt.Errorf("field %q is nameless or listed twice", f.Name))
		}
		seen[f.Name] = true
		if !f.matches(f.Like) {
			errs = append(errs, fmt.Errorf("field %q has a pattern without an example", f.Name))
		}
	}
	return errors.Join(errs...)
}

// validate checks one cloud.
func (c Cloud) validate() error {
	bad := len(c.Hosts) == 0 || !tokenURLPattern.MatchString(c.TokenURL) || !isHTTPS(c.Scope)
	if bad || slices.ContainsFunc(c.Hosts, func(host string) bool { return !cloudHostPattern.MatchString(host) }) {
		return errors.New("a cloud is not plain")
	}
	return nil
}

// validateFormat checks the description of a secret's form.
func (p Provider) validateFormat() error {
	switch {
	case p.SecretFormat == FormatJSON:
		return p.validateJSON()
	case p.SecretFormat != FormatToken:
		return errors.New("secret_format is unknown")
	case len(p.Fields) > 0 || len(p.Alternatives) > 0 || p.KeyField != "":
		return errors.New("fields are for json only")
	case p.MinLength < 0:
		return errors.New("min_length is a number of bytes")
	}
	return nil
}

// validateJSON checks the description of a JSON credential.
func (p Provider) validateJSON() error {
	switch {
	case len(p.RequiredFields()) == 0 && len(p.Alternatives) == 0:
		return errors.New("json needs a required field")
	case p.MinLength != 0:
		return errors.New("min_length is for token only")
	case p.KeyField != "" && !slices.Contains(p.RequiredFields(), p.KeyField) && !p.hasAlternative(p.KeyField):
		return errors.New("key_field names an optional field")
	case p.KeyField == "" && !p.signs():
		return errors.New("a style that does not sign needs a key_field")
	case len(p.Alternatives) == 1:
		return errors.New("alternatives has only one")
	}
	return nil
}

// validate checks one route.
func (r Route) validate() error {
	switch {
	case !routePattern.MatchString(r.Path):
		return errors.New("a route's path is not plain")
	case r.Host != "" && (!routeHostPattern.MatchString(r.Host) || strings.Contains(r.Host, "*") && !strings.Contains(r.Path, "*")):
		return errors.New("a route's host is not plain")
	case r.AuthStyle != "" && !slices.Contains(styles[:4], r.AuthStyle):
		return errors.New("a route's auth_style does not name a header")
	case r.Dialect != "" && !slices.Contains(dialects, r.Dialect):
		return errors.New("a route's dialect is unknown")
	}
	return nil
}

// isPattern reports whether text is empty or a regular expression for a whole path.
func isPattern(text string) bool {
	_, err := regexp.Compile(text)
	return text == "" || err == nil && strings.HasPrefix(text, "^/") && strings.HasSuffix(text, "$")
}

func isHTTPS(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

// isBaseURL reports whether paths can be appended to text: https, a host, no query, no fragment, no trailing slash.
func isBaseURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && isHTTPS(text) && u.RawQuery == "" && u.Fragment == "" &&
		!strings.HasSuffix(text, "/") && !strings.ContainsAny(text, "{}")
}

// AuthStyle is the way in which a provider expects its key in a request.
type AuthStyle string

// The known styles, with the header that each fills in.
const (
	AuthBearer      AuthStyle = "bearer"         // Authorization: Bearer KEY
	AuthXAPIKey     AuthStyle = "x_api_key"      // x-api-key: KEY
	AuthXGoogAPIKey AuthStyle = "x_goog_api_key" //nolint:gosec // G101: a header, x-goog-api-key: KEY
	AuthAPIKey      AuthStyle = "api_key"        // api-key: KEY
	AuthAWSSigV4    AuthStyle = "aws_sigv4"      // Authorization: Bearer TOKEN, signed with the credential
	AuthGCPOAuth    AuthStyle = "gcp_oauth"      // Authorization: Bearer TOKEN, signed with the credential
	AuthAzureEntra  AuthStyle = "azure_entra"    // Authorization: Bearer TOKEN, for which the credential is exchanged; in no entry
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
	Dialect      Dialect      `yaml:"dialect"`
	Routes       []Route      `yaml:"routes"`
	Clouds       []Cloud      `yaml:"clouds"` // FormatJSON only; the first is that of BaseURL
	SecretFormat SecretFormat `yaml:"secret_format"`
	Prefixes     []Prefix     `yaml:"prefixes"`     // empty if not known
	MinLength    int          `yaml:"min_length"`   // FormatToken only; 0: shortestKey
	Fields       []Field      `yaml:"fields"`       // FormatJSON only
	Alternatives [][]string   `yaml:"alternatives"` // groups of optional fields; a credential has exactly one group
	KeyField     string       `yaml:"key_field"`    // the field that goes into the header; empty: the credential signs
	// Administration lists the paths below BaseURL that are not inference; * is one segment.
	Administration []string `yaml:"administration"`
	// Unserved lists the parts of the API that no gateway can serve; gateways read it.
	Unserved []Unserved `yaml:"unserved"`
	// NamedByURL matches the paths of URLs that answers contain and later requests send back; gateways read it.
	NamedByURL string `yaml:"named_by_url"`
	// Answers are the rules for what the provider's answers say about a key.
	Answers verdict.Rules `yaml:"answers"`
	// Verify is the request that tests a key; nil if no such request is known.
	Verify  *Verify `yaml:"verify"`
	KeyPage string  `yaml:"key_page"`
	Example string  `yaml:"example"` // an invented secret of the right shape

	// Only custom providers have Header and Destination. Header is the name of the header that carries the key; it is
	// empty unless AuthStyle is AuthHeader. Destination is the provider's Custom.Digest, to which the envelopes of keys
	// are bound.
	Header      string `yaml:"-"`
	Destination string `yaml:"-"`
}

// Unserved is a part of a provider's API that gateways refuse: its path, and the two parts of the sentence in the
// refusal.
type Unserved struct {
	Path string `yaml:"path"`
	What string `yaml:"what"`
	Why  string `yaml:"why"`
}

// Dialect is the form of an API's errors.
type Dialect string

// The known dialects.
const (
	DialectOpenAI     Dialect = "openai"
	DialectPerplexity Dialect = "perplexity"
	DialectAnthropic  Dialect = "anthropic"
	DialectGoogle     Dialect = "google"
)

// Route is a path outside BaseURL that is served too. AuthStyle and Dialect are empty if they are the provider's.
type Route struct {
	Path      string    `yaml:"path"` // * is one segment
	Host      string    `yaml:"host"` // empty: BaseURL's; * is the segment that the path's last * matches
	AuthStyle AuthStyle `yaml:"auth_style"`
	Dialect   Dialect   `yaml:"dialect"`
}

// Prefix is one way in which a provider's keys begin.
type Prefix struct {
	Value       string `yaml:"value"`
	Distinctive bool   `yaml:"distinctive"` // no other provider's keys begin with it
}

// Field is one member of a JSON credential; its value is a non-empty string.
type Field struct {
	Name      string   `yaml:"name"`
	Optional  bool     `yaml:"optional"`
	OneOf     []string `yaml:"one_of"`    // the only values accepted; empty: any
	Multiline bool     `yaml:"multiline"` // a PEM block, which has spaces and line ends
	Public    bool     `yaml:"public"`    // no secret: people may name a key after it
	Pattern   string   `yaml:"pattern"`   // must match the whole value; empty: anything
	Like      string   `yaml:"like"`      // a value that matches Pattern
	// Unserved maps the beginnings of values that are not served to the reasons.
	Unserved map[string]string `yaml:"unserved"`
}

// fieldEndpoint is the field with a URL on one of the hosts of Provider.Clouds.
const fieldEndpoint = "endpoint"

// Cloud is a part of a provider: hosts of resources, and where its tokens come from.
type Cloud struct {
	Hosts    []string `yaml:"hosts"`     // * is one DNS label
	TokenURL string   `yaml:"token_url"` // {tenant_id} stands for the credential's field
	Scope    string   `yaml:"scope"`
}

// RequiredFields returns the names of the members that a credential must have, in the catalogue's order. The result is
// never nil; for a token, it is empty.
func (p Provider) RequiredFields() []string {
	names := []string{}
	for _, f := range p.Fields {
		if !f.Optional {
			names = append(names, f.Name)
		}
	}
	return names
}

// isRequired reports whether every credential has a field.
func (p Provider) isRequired(field string) bool { return slices.Contains(p.RequiredFields(), field) }

// CloudHosts returns the hosts that a credential's endpoint may name, in the catalogue's order; nil if credentials have
// no endpoint.
func (p Provider) CloudHosts() (hosts []string) {
	for _, cloud := range p.Clouds {
		hosts = append(hosts, cloud.Hosts...)
	}
	return hosts
}

// hasAlternative reports whether a field is one of the alternatives.
func (p Provider) hasAlternative(field string) bool {
	return slices.ContainsFunc(p.Alternatives, func(group []string) bool { return slices.Contains(group, field) })
}

// KnownPrefixes returns the known prefixes of the provider's keys, in the catalogue's order. The result is never nil.
func (p Provider) KnownPrefixes() []string {
	values := []string{}
	for _, prefix := range p.Prefixes {
		values = append(values, prefix.Value)
	}
	return values
}

// longestPrefix returns the length in bytes of the longest of the provider's prefixes that the secret begins with, or
// 0. If distinctive is set, only distinctive prefixes count.
func (p Provider) longestPrefix(secret string, distinctive bool) int {
	longest := 0
	for _, prefix := range p.Prefixes {
		if (prefix.Distinctive || !distinctive) && len(prefix.Value) > longest && strings.HasPrefix(secret, prefix.Value) {
			longest = len(prefix.Value)
		}
	}
	return longest
}
