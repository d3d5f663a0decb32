package gateway

import (
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/spec"
)

// Dialect is the form of an API's errors. SDKs and frameworks show the text of an error only if it has the form that they expect.
type Dialect string

// The dialects of the provider catalogue, which describes them. The zero value is DialectOpenAI.
const (
	DialectOpenAI     Dialect = "openai"
	DialectPerplexity Dialect = "perplexity"
	DialectAnthropic  Dialect = "anthropic"
	DialectGoogle     Dialect = "google"
)

// cataloguedProvider is what this release's catalogue says of a provider's answers.
type cataloguedProvider struct {
	dialect    Dialect
	byRoute    map[string]Dialect // by the paths of its routes
	requests   destination        // where requests would go with a key of the provider
	namedByURL *regexp.Regexp     // the paths of URLs that callers give back in later requests; nil for none
	unserved   []unservedAPI
}

// cataloguedProviders returns the providers of this release's catalogue by slug. They are known without the control plane, because most
// refusals come before there is a key.
var cataloguedProviders = sync.OnceValue(func() map[string]cataloguedProvider {
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
		return nil // the catalogue's own tests have read the file
	}
	catalogue := make(map[string]cataloguedProvider, len(file.Providers))
	for _, p := range file.Providers {
		known := cataloguedProvider{dialect: p.Dialect, byRoute: map[string]Dialect{}, unserved: p.Unserved}
		key := &dataplane.Key{BaseURL: strings.NewReplacer("{", "", "}", "").Replace(p.BaseURL)} // a field's name stands for its value
		for _, r := range p.Routes {
			key.Routes = append(key.Routes, dataplane.Route{Path: r.Path})
			known.byRoute[r.Path] = r.Dialect
		}
		known.requests, _ = newDestination(key, nil)
		if p.Named != "" {
			known.namedByURL, _ = regexp.Compile(p.Named) // the catalogue's own tests have compiled it
		}
		catalogue[p.Slug] = known
	}
	return catalogue
})

// dialectOf returns the dialect of the API that a caller's path below a provider belongs to. For a provider that the catalogue does not
// have, it goes by the headers that only the SDKs of one vendor send.
func dialectOf(provider, path string, header http.Header) Dialect {
	if known, ok := cataloguedProviders()[provider]; ok {
		if _, err := parsePath(path); err == nil {
			target := known.requests.join(safePath(path))
			if route, ok := known.requests.key.Route(known.requests.pathOnHost(target)); ok && known.byRoute[route.Path] != "" {
				return known.byRoute[route.Path]
			}
		}
		return known.dialect
	}
	switch {
	case header["Anthropic-Version"] != nil:
		return DialectAnthropic
	case header[headerXGoogAPIKey] != nil:
		return DialectGoogle
	}
	return DialectOpenAI
}

// form returns the members of the problem's document in its dialect. Those of a problem document stay, where the dialect leaves room for
// them, and `message` is for the SDKs that look for nothing else.
func (p Problem) form() map[string]any {
	shown := map[string]any{"message": p.Error.Message, "type": p.Error.Type, "code": p.Error.Code}
	document := map[string]any{
		"type": p.Type, "title": p.Title, "status": p.Status, "detail": p.Detail, "code": p.Code, "request_id": p.RequestID,
		"message": p.Detail, "error": shown,
	}
	switch p.Dialect {
	case DialectAnthropic:
		document["type"], document["problem_type"] = "error", p.Type
		shown["type"] = anthropicType(p.Status)
	case DialectGoogle:
		shown["code"], shown["status"] = p.Status, googleStatus(p.Status)
		shown["details"] = []map[string]string{{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": strings.ToUpper(p.Error.Code), "domain": "agentrouter",
		}}
	default:
		maps.Copy(document, map[string]any{"object": "error", "param": nil}) // Mistral's
		shown["param"] = nil
		if p.Dialect == DialectPerplexity {
			shown["code"] = p.Status
		}
	}
	return document
}

// isProblemDocument reports whether the dialect's documents go as problem documents. Anthropic's have another `type`, and Google's SDK for
// Node reads plain JSON alone.
func (d Dialect) isProblemDocument() bool { return d != DialectAnthropic && d != DialectGoogle }

// anthropicType returns what Anthropic calls an error of the status: platform.claude.com/docs/en/api/errors.
func anthropicType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusNotFound:
		return "not_found_error"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status == http.StatusGatewayTimeout:
		return "timeout_error"
	case status >= http.StatusInternalServerError:
		return "api_error"
	}
	return "invalid_request_error"
}

// googleStatus returns what Google calls an error of the status: the names of google.rpc.Code.
func googleStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusInternalServerError:
		return "INTERNAL"
	case http.StatusNotImplemented:
		return "UNIMPLEMENTED"
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	}
	return "INVALID_ARGUMENT"
}
