package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/spec"
)

// CheckUpstreams returns everything that is wrong with a value for Config.Upstreams, in the order of the slugs,
// including unknown providers. New accepts unknown providers, because no request can go to them, and checks only the
// URLs. The error repeats no URL, because a URL may hold a password. inClear is Config.Insecure.
func CheckUpstreams(upstreams map[string]*url.URL, inClear bool) error {
	if len(upstreams) == 0 {
		return nil
	}
	known := Providers()
	var wrong []error
	for _, provider := range slices.Sorted(maps.Keys(upstreams)) {
		name := provider
		if !isName(provider, false) {
			name = "of that name" // the text could be anything
		}
		if !slices.Contains(known, provider) {
			wrong = append(wrong, fmt.Errorf("there is no provider %s; this release knows %s", name, strings.Join(known, ", ")))
			continue
		}
		if upstream := upstreams[provider]; upstream == nil || checkBase(upstream, inClear) != nil {
			wrong = append(wrong, fmt.Errorf("the URL of %s %s", name, destinationRule))
		}
	}
	return errors.Join(wrong...)
}

// Providers returns the slugs of this release's provider catalogue. A newer control plane may know more.
func Providers() []string { return slices.Clone(readCatalogue().slugs) }

// unservedAPI is a part of a provider's API that no gateway can serve. As an error, it names the part and says why.
type unservedAPI struct {
	Path string `yaml:"path"`
	What string `yaml:"what"`
	Why  string `yaml:"why"`
}

// Error returns the sentence for the caller.
func (u *unservedAPI) Error() string { return u.What + ": " + u.Why + "." }

// Unwrap returns errUnserved.
func (u *unservedAPI) Unwrap() error { return errUnserved }

// cataloguedProvider is what this release's catalogue says of a provider's answers.
type cataloguedProvider struct {
	dialect    Dialect
	byRoute    map[string]Dialect // by the paths of its routes
	requests   destination        // where requests would go with a key of the provider
	namedByURL *regexp.Regexp     // matches paths of URLs that callers send back in later requests; nil for none
	unserved   []unservedAPI
}

// catalogue has the slugs in the order of the file, and what is known of each provider.
type catalogue struct {
	slugs  []string
	bySlug map[string]cataloguedProvider
}

// readCatalogue returns this release's catalogue. It does not come from the control plane, because most requests are
// refused before a key is resolved.
var readCatalogue = sync.OnceValue(func() catalogue {
	var file struct {
		Providers []struct {
			Slug    string  `yaml:"slug"`
			BaseURL string  `yaml:"base_url"`
			Dialect Dialect `yaml:"dialect"`
			Named   string  `yaml:"named_by_url"`

			Unserved []unservedAPI `yaml:"unserved"`
			Routes   []struct {
				Path    string  `yaml:"path"`
				Dialect Dialect `yaml:"dialect"`
			} `yaml:"routes"`
		} `yaml:"providers"`
	}
	if err := yaml.Unmarshal(spec.ProvidersYAML(), &file); err != nil {
		return catalogue{} // the catalogue's own tests read the file, so this can't happen
	}
	all := catalogue{bySlug: make(map[string]cataloguedProvider, len(file.Providers))}
	for _, p := range file.Providers {
		known := cataloguedProvider{dialect: p.Dialect, byRoute: map[string]Dialect{}, unserved: p.Unserved}
		key := &dataplane.Key{BaseURL: strings.NewReplacer("{", "", "}", "").Replace(p.BaseURL)} // fields' names stand for their values
		for _, r := range p.Routes {
			key.Routes = append(key.Routes, dataplane.Route{Path: r.Path})
			known.byRoute[r.Path] = r.Dialect
		}
		known.requests, _ = newDestination(key, nil)
		if p.Named != "" {
			known.namedByURL, _ = regexp.Compile(p.Named) // the catalogue's own tests compile it
		}
		all.slugs, all.bySlug[p.Slug] = append(all.slugs, p.Slug), known
	}
	return all
})
