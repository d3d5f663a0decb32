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

	"github.com/agentrouter/aikeys/spec"
)

// ErrCatalogue is wrapped by every error of [Load]: the catalogue's file is not as it should be.
var ErrCatalogue = errors.New("provider catalogue is invalid")

// Catalogue is the set of known providers. [Load] makes it.
type Catalogue struct {
	providers []Provider
}

// Load reads and checks the catalogue that is embedded in the program. It fails only when that file is wrong, and then
// names everything that is wrong at once.
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

// All returns every provider in the file's order.
func (c *Catalogue) All() []Provider {
	all := make([]Provider, 0, len(c.providers))
	for _, p := range c.providers {
		all = append(all, p.clone())
	}
	return all
}

// Lookup returns the provider with this slug. Slugs are compared exactly.
func (c *Catalogue) Lookup(slug string) (Provider, bool) {
	for _, p := range c.providers {
		if p.Slug == slug {
			return p.clone(), true
		}
	}
	return Provider{}, false
}

// Slugs returns every provider's slug in the file's order.
func (c *Catalogue) Slugs() []string {
	slugs := make([]string, 0, len(c.providers))
	for _, p := range c.providers {
		slugs = append(slugs, p.Slug)
	}
	return slugs
}

// validate returns all that is wrong with the catalogue, joined.
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
	slugPattern        = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	placeholderPattern = regexp.MustCompile(`\{([^{}]*)\}`)
)

// validate checks what can be said of one provider alone.
func (p Provider) validate() error {
	styles := []AuthStyle{AuthBearer, AuthXAPIKey, AuthXGoogAPIKey, AuthAPIKey, AuthAWSSigV4, AuthGCPOAuth}
	checks := []struct {
		bad  bool
		text string
	}{
		{!slugPattern.MatchString(p.Slug), "slug is not lower-case letters, digits and underscores"},
		{p.DisplayName == "", "display_name is missing"},
		{!isBaseURL(placeholderPattern.ReplaceAllString(p.BaseURL, "x")), "base_url is not a plain https URL"},
		{!slices.Contains(styles, p.AuthStyle), "auth_style is unknown"},
		{p.SecretFormat != FormatToken && p.SecretFormat != FormatJSON, "secret_format is unknown"},
		{p.SecretFormat == FormatJSON && len(p.RequiredFields()) == 0, "json needs a required field"},
		{p.SecretFormat != FormatJSON && len(p.Fields) > 0, "fields are for json only"},
		{p.KeyField != "" && !slices.Contains(p.RequiredFields(), p.KeyField), "key_field is not a required field"},
		{p.SecretFormat == FormatJSON && (p.KeyField == "") != p.signs(), "key_field is for a header that takes one field as it is"},
		{slices.Contains(p.KnownPrefixes(), ""), "a prefix is empty"},
		{!isHTTPS(p.KeyPage), "key_page is not an https URL"},
		{p.Example == "", "example is missing"},
	}
	var errs []error
	for _, check := range checks {
		if check.bad {
			errs = append(errs, errors.New(check.text))
		}
	}
	for _, match := range placeholderPattern.FindAllStringSubmatch(p.BaseURL, -1) {
		if !slices.Contains(p.RequiredFields(), match[1]) {
			errs = append(errs, fmt.Errorf("base_url names %q, which is not a required field", match[1]))
		}
	}
	return errors.Join(append(errs, p.validateFields())...)
}

func (p Provider) validateFields() error {
	seen := map[string]bool{"": true}
	var errs []error
	for _, f := range p.Fields {
		if seen[f.Name] {
			errs = append(errs, fmt.Errorf("field %q is nameless or listed twice", f.Name))
		}
		seen[f.Name] = true
	}
	return errors.Join(errs...)
}

func isHTTPS(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

// isBaseURL tells whether paths can be appended to text: https, a host, no query, no fragment, no trailing slash.
func isBaseURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && isHTTPS(text) && u.RawQuery == "" && u.Fragment == "" &&
		!strings.HasSuffix(text, "/") && !strings.ContainsAny(text, "{}")
}
