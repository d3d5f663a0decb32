package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/dataplane"
)

// The gateway's own headers. None of them is passed on to a provider.
const (
	// HeaderProject, in requests, selects another project than that of the caller's session.
	HeaderProject = "Agentrouter-Project"
	// HeaderKeyID, in answers, is the id of the key that served the request.
	HeaderKeyID = "Agentrouter-Key-Id"
	// HeaderReason, in answers, is the rule that chose the key.
	HeaderReason = "Agentrouter-Reason"
	// HeaderRequestID, in answers, is the request's id in the gateway's log. X-Request-Id is the provider's.
	HeaderRequestID = "Agentrouter-Request-Id"

	ownPrefix = "Agentrouter-"
)

// The headers in which callers send credentials and providers take keys.
const (
	headerAuthorization = "Authorization"
	headerXAPIKey       = "X-Api-Key"      //nolint:gosec // the name of a header
	headerXGoogAPIKey   = "X-Goog-Api-Key" //nolint:gosec // the name of a header
	headerAPIKey        = "Api-Key"
)

// The control plane's own limits.
const (
	maxCredential = 8192
	maxName       = 64
)

const (
	// QueryKeyProvider is the only provider whose clients may send their key in the query.
	QueryKeyProvider = "gemini"
	// QueryKey is the parameter of that key.
	QueryKey = "key"
)

// CredentialHeaders returns the headers in which callers send credentials and providers take keys.
func CredentialHeaders() []string {
	return []string{headerAuthorization, headerXAPIKey, headerXGoogAPIKey, headerAPIKey}
}

// CallerOf reads the caller's credential and the project from the head of a request to a provider. rawQuery is read for
// QueryKeyProvider only. The same credential may be sent twice; two different ones are refused.
func CallerOf(header http.Header, rawQuery, provider string) (dataplane.Request, error) {
	if !isName(provider, false) {
		return dataplane.Request{}, errNoRoute
	}
	credential, err := credentialOf(header, rawQuery, provider)
	if err != nil {
		return dataplane.Request{}, err
	}
	request := dataplane.ForCaller(credential, provider)
	switch projects := header[HeaderProject]; {
	case len(projects) == 1 && isName(projects[0], true):
		request.ProjectID = projects[0]
	case len(projects) > 0:
		return dataplane.Request{}, errProject
	}
	return request, nil
}

func credentialOf(header http.Header, rawQuery, provider string) (string, error) {
	var found singleValue
	for _, value := range header[headerAuthorization] {
		scheme, token, _ := strings.Cut(strings.TrimSpace(value), " ")
		if !strings.EqualFold(scheme, "bearer") {
			return "", errScheme
		}
		found.add(strings.TrimSpace(token))
	}
	for _, name := range [...]string{headerXAPIKey, headerXGoogAPIKey, headerAPIKey} {
		for _, value := range header[name] {
			found.add(strings.TrimSpace(value))
		}
	}
	if provider == QueryKeyProvider && rawQuery != "" {
		eachParameter(rawQuery, func(pair string) {
			if isQueryKey(pair) {
				_, value, _ := strings.Cut(pair, "=")
				value, _ = url.QueryUnescape(value)
				found.add(value)
			}
		})
	}
	switch {
	case found.several:
		return "", errTwoCredentials
	case found.value == "":
		return "", errNoCredential
	case len(found.value) > maxCredential:
		return "", dataplane.ErrCallerUnauthenticated
	}
	return found.value, nil
}

// singleValue keeps a value, and notices a second one that differs. Empty values are ignored.
type singleValue struct {
	value   string
	several bool
}

func (v *singleValue) add(value string) {
	v.several = v.several || (v.value != "" && value != "" && value != v.value)
	if value != "" {
		v.value = value
	}
}

// withoutCredential returns the query without the parameters that contain the caller's credential.
func withoutCredential(rawQuery, provider, credential string) string {
	if rawQuery == "" || (provider != QueryKeyProvider && !strings.Contains(rawQuery, credential)) {
		return rawQuery
	}
	kept := make([]string, 0, 4)
	eachParameter(rawQuery, func(pair string) {
		if !hasCredential(pair, provider, credential) {
			kept = append(kept, pair)
		}
	})
	return strings.Join(kept, "&")
}

// credentialParameters returns the names of the parameters that contain the caller's credential, each once and as it was
// sent: a proxy that removes parameters by name may not decode names. It then also removes other parameters of that name.
func credentialParameters(rawQuery, provider, credential string) (names []string) {
	eachParameter(rawQuery, func(pair string) {
		name, _, _ := strings.Cut(pair, "=")
		if hasCredential(pair, provider, credential) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	})
	return names
}

// hasCredential reports whether a parameter contains the caller's credential, or is the key of QueryKeyProvider.
func hasCredential(pair, provider, credential string) bool {
	return strings.Contains(pair, credential) || provider == QueryKeyProvider && isQueryKey(pair)
}

func eachParameter(rawQuery string, visit func(pair string)) {
	for pair := range strings.SplitSeq(rawQuery, "&") {
		if pair != "" {
			visit(pair)
		}
	}
}

func isQueryKey(pair string) bool {
	name, _, _ := strings.Cut(pair, "=")
	if name == QueryKey {
		return true
	}
	name, err := url.QueryUnescape(name) // %6bey is key to the provider
	return err == nil && name == QueryKey
}

// isName reports whether the text has the form of a provider's slug or, with dots and capitals, of a project's id.
func isName(text string, id bool) bool {
	if text == "" || len(text) > maxName {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == '-':
		case id && (c == '.' || c >= 'A' && c <= 'Z'):
		default:
			return false
		}
	}
	return true
}
