package gateway

import (
	"net/url"
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
	if len(key.Administration) > 0 {
		path, _ := strings.CutPrefix(target.EscapedPath(), strings.TrimRight(base.EscapedPath(), "/"))
		segments := segmentsOf(path)
		for _, pattern := range key.Administration {
			if !hasPrefix(segments, segmentsOf(pattern)) {
				continue
			}
			if !o.all {
				err = errAdministration
			}
			return operationAdministration, err
		}
	}
	return operationInference, nil
}

// segmentsOf returns a path's segments as a lenient server may read them: unescaped, in lower case, and without parameters.
func segmentsOf(path string) []string {
	for range maxEscapes {
		path, _ = unescape(path)
	}
	segments := strings.Split(strings.Trim(strings.ToLower(path), "/"), "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return segments
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
