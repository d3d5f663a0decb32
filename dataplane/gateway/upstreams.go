package gateway

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// CheckUpstreams tells what is wrong with what is to be Config.Upstreams, before anything is served: all of it, in the order
// of the slugs. New refuses the same destinations; providers that are none it lets be, as nothing is ever asked for there.
// The error repeats no URL, which may hold a password.
func CheckUpstreams(upstreams map[string]*url.URL) error {
	if len(upstreams) == 0 {
		return nil
	}
	known, err := Providers()
	if err != nil {
		return err
	}
	var slugs []string
	for provider := range upstreams {
		slugs = append(slugs, provider)
	}
	slices.Sort(slugs)
	var wrong []error
	for _, provider := range slugs {
		name := provider
		if !isName(provider, false) {
			name = "of that name" // which may be anything
		}
		if !slices.Contains(known, provider) {
			wrong = append(wrong, fmt.Errorf("there is no provider %s; this release knows %s", name, strings.Join(known, ", ")))
			continue
		}
		if upstream := upstreams[provider]; upstream == nil || checkDestination(upstream) != nil {
			wrong = append(wrong, fmt.Errorf("the URL of %s %s", name, destinations))
		}
	}
	return errors.Join(wrong...)
}

// Providers returns the slugs of the catalogue, as it was when this release was made. A control plane that is newer may know
// more.
func Providers() (slugs []string, err error) {
	document, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("data planes' API document: %w", err)
	}
	schema := document.Components.Schemas["ProviderSlug"]
	if schema == nil || schema.Value == nil {
		return nil, errors.New("data planes' API document: no ProviderSlug")
	}
	listed, _ := schema.Value.Extensions["x-extensible-enum"].([]any)
	for _, slug := range listed {
		slugs = append(slugs, fmt.Sprint(slug))
	}
	return slugs, nil
}
