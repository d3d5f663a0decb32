package providers

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agentrouter/aikeys/internal/problem"
)

// CustomPrefix begins the slugs of custom providers. No slug of the catalogue has a hyphen.
const CustomPrefix = "x-"

// The styles that only custom providers have.
const (
	AuthHeader AuthStyle = "header" // a header that the provider names: KEY
	AuthNone   AuthStyle = "none"   // no key at all
)

// NoSecret is the secret of a key for a provider that takes no key. Such a key only allows the use of the provider.
const NoSecret = "none"

// Custom describes a provider that is a customer's own server.
type Custom struct {
	Slug, Name, BaseURL string
	Dialect             Dialect
	Auth                AuthStyle
	Header              string // for AuthHeader
}

var (
	customPattern = regexp.MustCompile(`^x-[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?$`)
	headerPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,62}$`)
	// unfitHeaders matches headers that can't carry a key. They frame or route a request, replace its path or method on
	// some servers, or are read or removed by gateways.
	unfitHeaders = regexp.MustCompile(`^(?i:host|content-.*|transfer-.*|te|trailer|connection|keep-alive|upgrade|expect|accept.*|cookie|date|via|forwarded|x-forwarded-.*|x-envoy-.*|proxy-.*|agentrouter-.*|sec-.*|range|if-.*|origin|referer|user-agent|x-original-.*|x-rewrite-.*|x-http-method.*|x-method-override|x-real-ip|.*-client-ip|cf-connecting-ip)$`)
	pathPattern  = regexp.MustCompile(`^(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`)
	namePattern  = regexp.MustCompile(`^[\x21-\x7e](?:[\x20-\x7e]{0,62}[\x21-\x7e])?$`)
)

// IsCustom reports whether a slug has the form of a custom provider's.
func IsCustom(slug string) bool { return customPattern.MatchString(slug) }

// CustomOf returns the description of a custom provider from its stored fields.
func CustomOf(slug, name, baseURL, dialect, auth, header string) Custom {
	return Custom{Slug: slug, Name: name, BaseURL: baseURL, Dialect: Dialect(dialect), Auth: AuthStyle(auth), Header: header}
}

// Check returns the faults of the description by field: slug, name, base_url, dialect, auth and header.
func (c Custom) Check() (faults []problem.Field) {
	checks := []struct {
		bad           bool
		field, reason string
	}{
		{!IsCustom(c.Slug), "slug", "must be x- and 1 to 62 characters of a-z, 0-9 and dash, such as x-vllm"},
		{!namePattern.MatchString(c.Name), "name", "must be 1 to 64 characters of printable ASCII, without spaces around it"},
		{c.Dialect != DialectOpenAI && c.Dialect != DialectAnthropic, "dialect", "must be openai or anthropic"},
		{c.Auth != AuthBearer && c.Auth != AuthHeader && c.Auth != AuthNone, "auth", "must be bearer, header or none"},
		{(c.Auth == AuthHeader) != (c.Header != ""), "header", "is required if auth is header, and can't be given otherwise"},
		{c.Header != "" && (!headerPattern.MatchString(c.Header) || unfitHeaders.MatchString(c.Header)), "header",
			"must be the name of a header for keys, such as X-Api-Key"},
	}
	if reason := checkCustomURL(c.BaseURL); reason != "" {
		faults = append(faults, problem.Field{Field: "base_url", Message: reason})
	}
	for _, check := range checks {
		if check.bad {
			faults = append(faults, problem.Field{Field: check.field, Message: check.reason})
		}
	}
	return faults
}

// checkCustomURL returns why a URL is not the plain base URL of an API, or "" if it is. Each gateway decides which
// hosts it connects to, but a host that every gateway refuses is refused here already. The reason does not repeat the
// URL, which may hold a password.
func checkCustomURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || len(text) > maxBaseURL:
		return "must be an http or https URL of at most 512 bytes, such as https://llm.example.com/v1"
	case u.User != nil:
		return "must hold no user and password; a key is registered, and sealed"
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "#"):
		return "must have no query and no fragment"
	case !pathPattern.MatchString(u.EscapedPath()):
		return "must end without a slash, and have a plain path: no escapes, no empty and no dot segments"
	}
	return cmp.Or(checkPort(u), checkHost(u.Hostname()))
}

func checkPort(u *url.URL) string {
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Port() == "" && strings.HasSuffix(u.Host, ":"):
		return "must have a port behind the colon"
	case u.Port() != "" && (err != nil || port == 0):
		return "must have a port from 1 to 65535"
	}
	return ""
}

const maxBaseURL = 512

func checkHost(host string) string {
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap()
		if address.Zone() != "" || address.IsLinkLocalUnicast() || address.IsMulticast() || address.IsUnspecified() {
			return "must not be a link-local, multicast, unspecified or cloud metadata address; no gateway connects there"
		}
		return ""
	}
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	// Some resolvers read names that end in a number as addresses: 0x7f.1 and 2130706433.
	if len(host) > 253 || last == "" || last[0] >= '0' && last[0] <= '9' || slices.ContainsFunc(labels, func(l string) bool { return !customLabel.MatchString(l) }) {
		return "must have a host's name of ASCII letters, digits and hyphens (others as xn--…), or an IP address"
	}
	return ""
}

var customLabel = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// Digest identifies where and how the provider gets its keys. The envelopes of keys are bound to the digest, so that
// they open only for a provider with the same digest.
func (c Custom) Digest() string {
	hash := sha256.New()
	for _, part := range []string{"aikeys/v1/custom-provider", c.BaseURL, string(c.Dialect), string(c.Auth), http.CanonicalHeaderKey(c.Header)} {
		_ = binary.Write(hash, binary.BigEndian, uint64(len(part))) // a hash never fails to write
		hash.Write([]byte(part))
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// shortestCustom is the length in bytes of the shortest key that a custom provider may have: customers' own servers
// have short keys.
const shortestCustom = 6

// Provider returns the provider in the form of a catalogue entry.
func (c Custom) Provider() Provider {
	return Provider{
		Slug: c.Slug, DisplayName: c.Name, BaseURL: c.BaseURL, AuthStyle: c.Auth, Header: c.Header, Dialect: c.Dialect,
		SecretFormat: FormatToken, MinLength: shortestCustom, Destination: c.Digest(), Verify: c.verify(),
	}
}

// verify returns the request that tests a key by listing the models, or nil if the provider takes no key. Only gateways
// may send the request.
func (c Custom) verify() *Verify {
	base, err := url.Parse(c.BaseURL)
	switch {
	case err != nil || c.Auth == AuthNone:
		return nil
	case c.Dialect == DialectAnthropic:
		return &Verify{Path: strings.TrimSuffix(base.Path, "/v1") + "/v1/models", Headers: map[string]string{"anthropic-version": "2023-06-01"}}
	}
	return &Verify{Path: base.Path + "/models"}
}
