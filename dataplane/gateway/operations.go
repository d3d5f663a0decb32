package gateway

import (
	"net/url"
	"slices"
	"strings"
)

// The classes of operations.
const (
	operationInference      = "inference"
	operationAdministration = "administration"
)

// unservedAPI is a part of a provider's API that no gateway can serve. As an error, it says so by name.
type unservedAPI struct {
	Path string `yaml:"path"`
	What string `yaml:"what"`
	Why  string `yaml:"why"`
}

// Error returns the sentence for the caller.
func (u *unservedAPI) Error() string { return u.What + ": " + u.Why + "." }

// Unwrap returns errUnserved.
func (u *unservedAPI) Unwrap() error { return errUnserved }

// checkOperation returns the class of an operation, by the path of its URL. It returns errAdministration for what the key lists as
// administration, however it is spelled, unless the policy lets the key serve all operations, and *unservedAPI for what can't be served.
func checkOperation(d destination, target *url.URL) (class string, err error) {
	unserved := cataloguedProviders()[d.key.Provider].unserved
	if len(d.key.Administration) == 0 && len(unserved) == 0 {
		return operationInference, nil
	}
	segments, first := segmentsOf(target.EscapedPath()), len(segmentsOf(d.base.EscapedPath()))
	last := first
	if route, ok := d.key.Route(d.pathOnHost(target)); ok {
		first = len(segmentsOf(d.root))
		last = first + len(segmentsOf(route.Path))
	} else if d.base != d.own {
		// An upstream's URL may have less of the provider's own base path than the catalogue has, and callers send the rest; or more.
		if path := segmentsOf(d.own.EscapedPath()); !slices.EqualFunc(path, segments[max(0, first-len(path)):first], strings.EqualFold) {
			last += len(path)
		}
	}
	for i := range unserved {
		if hasBelow(segments, strings.Trim(unserved[i].Path, "/"), first, last) {
			return operationInference, &unserved[i]
		}
	}
	for _, pattern := range d.key.Administration {
		if hasBelow(segments, strings.Trim(pattern, "/"), first, last) {
			if !d.key.AllOperations {
				err = errAdministration
			}
			return operationAdministration, err
		}
	}
	return operationInference, nil
}

// segmentsOf returns a path's segments as a lenient server may read them: unescaped and without parameters.
func segmentsOf(path string) []string {
	for range maxEscapes {
		path, _ = unescape(path)
	}
	path = strings.Trim(path, "/")
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
func hasBelow(segments []string, pattern string, base, last int) bool {
	for i := max(0, base-strings.Count(pattern, "/")); i <= min(last, len(segments)); i++ {
		if hasPrefix(segments[i:], pattern) {
			return true
		}
	}
	return false
}

// hasPrefix reports whether the segments begin with those of the pattern, in any case, as a lenient server may read them.
func hasPrefix(segments []string, pattern string) bool {
	i := 0
	for part := range strings.SplitSeq(pattern, "/") {
		if i == len(segments) {
			return false
		}
		// After a colon, Google's APIs name a method: /auth_tokens:batch is below /auth_tokens.
		name, method, _ := strings.Cut(segments[i], ":")
		part, onlyMethod, _ := strings.Cut(part, ":")
		if part != "*" && !strings.EqualFold(part, name) || onlyMethod != "" && !strings.EqualFold(onlyMethod, method) {
			return false
		}
		i++
	}
	return true
}
