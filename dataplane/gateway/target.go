package gateway

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

// destinations is what the URL must be that a provider's key may be sent to.
const destinations = "must be https, or http on this machine, without user, query and fragment, and without empty and dot segments in its path"

var errDestination = errors.New("a destination " + destinations)

// checkDestination refuses what a provider's key may not be sent to.
func checkDestination(u *url.URL) error {
	local := u.Scheme == "http" && netaddr.Is(u.Hostname())
	plain := u.User == nil && u.Opaque == "" && u.RawQuery == "" && !u.ForceQuery && u.Fragment == ""
	if (u.Scheme != "https" && !local) || u.Hostname() == "" || !plain || !isPort(u.Port()) || !isBase(u.EscapedPath()) {
		return errDestination
	}
	return nil
}

func isPort(port string) bool {
	number, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && number > 0
}

// isBase tells whether paths can be put behind this one: target does not look at it again.
func isBase(path string) bool { return path == "" || path[0] == '/' && isSafe(path) }

// target returns where a request goes: rest, as it was escaped, below base. What base ends in and rest begins with is
// there once, so that clients whose own base URL ends in /v1 and clients that add it themselves both work.
//
// Nothing in rest can lead out of base, however the provider's servers read it: it is refused if it has a dot segment
// or an empty one, plain or escaped any number of times, or what some servers take for a slash.
func target(base *url.URL, rest string) (*url.URL, error) {
	if rest != "" && (rest[0] != '/' || !isSafe(rest)) {
		return nil, errPath
	}
	root := strings.TrimRight(base.EscapedPath(), "/")
	joined := root + rest[overlap(root, rest):]
	out := &url.URL{Scheme: base.Scheme, Host: base.Host, Path: joined}
	if strings.IndexByte(joined, '%') >= 0 {
		path, err := url.PathUnescape(joined)
		if err != nil {
			return nil, errPath
		}
		out.Path, out.RawPath = path, joined
	}
	return out, nil
}

// overlap returns the length of the longest run of whole segments that base ends in and rest begins with.
func overlap(base, rest string) int {
	for i := range len(base) {
		if base[i] != '/' {
			continue
		}
		if tail := base[i:]; strings.HasPrefix(rest, tail) && (len(rest) == len(tail) || rest[len(tail)] == '/') {
			return len(tail)
		}
	}
	return 0
}

// maxEscapes is how often a path may be escaped: once by those who write it, once more by mistake.
const maxEscapes = 3

func isSafe(path string) bool {
	for range maxEscapes {
		if !hasSafeSegments(path) {
			return false
		}
		decoded, changed := unescape(path)
		if !changed {
			return true
		}
		path = decoded
	}
	return false
}

// hasSafeSegments wants a path that begins with a slash. A last segment may be empty: a slash may end the path.
func hasSafeSegments(path string) bool {
	for i := range len(path) {
		if c := path[i]; c == '\\' || c < ' ' || c == 0x7f {
			return false
		}
	}
	if !utf8.ValidString(path) {
		return false
	}
	for segment, rest, more := strings.Cut(path[1:], "/"); ; segment, rest, more = strings.Cut(rest, "/") {
		name, _, _ := strings.Cut(segment, ";") // some servers drop what follows, and climb for "..;"
		if name == "." || name == ".." || (name == "" && more) {
			return false
		}
		if !more {
			return true
		}
	}
}

// unescape decodes what can be decoded once, and leaves the rest as it is, as lenient servers do.
func unescape(path string) (decoded string, changed bool) {
	if strings.IndexByte(path, '%') < 0 {
		return path, false
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]) {
			out = append(out, fromHex(path[i+1])<<4|fromHex(path[i+2]))
			i += 2
			changed = true
			continue
		}
		out = append(out, path[i])
	}
	return string(out), changed
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func fromHex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
