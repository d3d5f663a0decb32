package gateway

import (
	"net/url"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/dataplane"
)

// operations says which operations of providers are served.
type operations struct{ all bool }

// The classes of operations.
const (
	operationInference      = "inference"
	operationAdministration = "administration"
)

// check returns the class of an operation, by the path of its URL below base, and errAdministration for what the key's provider lists
// as administration, however it is spelled, unless all operations are served.
func (o operations) check(key *dataplane.Key, base, target *url.URL) (class string, err error) {
	segments, below := segmentsOf(target.EscapedPath()), len(segmentsOf(base.EscapedPath()))
	// An upstream's URL may have less of the provider's own base path than the catalogue has, and callers send the rest; or more.
	last := below
	if own, err := url.Parse(key.BaseURL); err == nil {
		if path := segmentsOf(own.EscapedPath()); !slices.Equal(path, segments[max(0, below-len(path)):below]) {
			last += len(path)
		}
	}
	for _, pattern := range key.Administration {
		if !hasBelow(segments, segmentsOf(pattern), below, last) {
			continue
		}
		if !o.all {
			err = errAdministration
		}
		return operationAdministration, err
	}
	return operationInference, nil
}

// segmentsOf returns a path's segments as a lenient server may read them: unescaped, in lower case, and without parameters.
func segmentsOf(path string) []string {
	for range maxEscapes {
		path, _ = unescape(path)
	}
	// Upper case first: of the letters that have no ASCII counterpart in lower case, some have it in upper case.
	path = strings.Trim(strings.ToLower(strings.ToUpper(path)), "/")
	if path == "" {
		return nil
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return segments
}

// hasBelow reports whether the pattern begins at one of the segments up to the given last one, and ends after the base's.
func hasBelow(segments, pattern []string, base, last int) bool {
	for i := max(0, base-len(pattern)+1); i <= min(last, len(segments)); i++ {
		if hasPrefix(segments[i:], pattern) {
			return true
		}
	}
	return false
}

func hasPrefix(segments, pattern []string) bool {
	if len(segments) < len(pattern) {
		return false
	}
	for i, segment := range pattern {
		// After a colon, Google's APIs name a method: /auth_tokens:batch is below /auth_tokens.
		name, _, _ := strings.Cut(segments[i], ":")
		if segment != "*" && segment != name {
			return false
		}
	}
	return true
}
