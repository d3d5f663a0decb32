package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/dataplane"
)

// The headers of our own. None of them is passed on to a provider.
const (
	// HeaderProject chooses another project than the caller's own.
	HeaderProject = "Agentrouter-Project"
	// HeaderKeyID tells, in answers, which key served the request.
	HeaderKeyID = "Agentrouter-Key-Id"
	// HeaderReason tells, in answers, which rule chose that key.
	HeaderReason = "Agentrouter-Reason"
	// HeaderRequestID tells, in answers, the request's id in our log. Providers have an X-Request-Id of their own.
	HeaderRequestID = "Agentrouter-Request-Id"

	ownPrefix = "Agentrouter-"
)

const (
	authorization = "Authorization"
	headerX       = "X-Api-Key"
	headerGoogle  = "X-Goog-Api-Key"
	headerAPI     = "Api-Key"
)

// The bounds of what is asked of the control plane, which has the same ones.
const (
	maxCredential = 8192
	maxName       = 64
)

const (
	// QueryKeyProvider is the one provider whose clients may send their key in the query.
	QueryKeyProvider = "gemini"
	// QueryKey is the parameter in which they do.
	QueryKey = "key"
)

// CredentialHeaders returns the headers in which callers send credentials, and providers take them.
func CredentialHeaders() []string { return []string{authorization, headerX, headerGoogle, headerAPI} }

// CallerOf reads the head of a request to a provider: whose credential it bears, and which project it is for.
// rawQuery is read for Gemini alone, the only provider whose clients send keys there. A credential that is sent twice
// is fine; two different ones are refused.
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
	var found onlyOne
	for _, value := range header[authorization] {
		scheme, token, _ := strings.Cut(strings.TrimSpace(value), " ")
		if !strings.EqualFold(scheme, "bearer") {
			return "", errScheme
		}
		found.add(strings.TrimSpace(token))
	}
	for _, name := range [...]string{headerX, headerGoogle, headerAPI} {
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

// onlyOne keeps a value, and notices a second one that differs. Empty ones are none.
type onlyOne struct {
	value   string
	several bool
}

func (o *onlyOne) add(value string) {
	o.several = o.several || (o.value != "" && value != "" && value != o.value)
	if value != "" {
		o.value = value
	}
}

// withoutCredential returns the query without the parameters that hold the caller's credential.
func withoutCredential(rawQuery, provider, credential string) string {
	if rawQuery == "" || (provider != QueryKeyProvider && !strings.Contains(rawQuery, credential)) {
		return rawQuery
	}
	kept := make([]string, 0, 4)
	eachParameter(rawQuery, func(pair string) {
		if !bearsCredential(pair, provider, credential) {
			kept = append(kept, pair)
		}
	})
	return strings.Join(kept, "&")
}

// withCredential returns the names of those parameters as they were sent, each once: who takes them out by name may decode
// none. A parameter that shares its name with one of them goes as well.
func withCredential(rawQuery, provider, credential string) (names []string) {
	eachParameter(rawQuery, func(pair string) {
		name, _, _ := strings.Cut(pair, "=")
		if bearsCredential(pair, provider, credential) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	})
	return names
}

func bearsCredential(pair, provider, credential string) bool {
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

// isName tells whether the text can be a provider's slug or, with dots and capitals, a project's id.
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
