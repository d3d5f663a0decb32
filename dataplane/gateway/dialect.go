package gateway

import (
	"maps"
	"net/http"
	"strings"
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

// dialectOf returns the dialect of the API that a caller's path below a provider belongs to. For a provider that the catalogue does not
// have, it goes by the headers that only the SDKs of one vendor send.
func dialectOf(provider, path string, header http.Header) Dialect {
	if known, ok := readCatalogue().bySlug[provider]; ok {
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
