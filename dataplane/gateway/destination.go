package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/agentrouter/aikeys/dataplane"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

// destinationRule describes the URLs to which a provider's key may be sent.
const destinationRule = "must be https, or http on this machine, without user, query and fragment, and without empty and dot segments in its path"

var errDestination = errors.New("a destination " + destinationRule)

// checkDestination returns errDestination unless a provider's key may be sent to the URL.
func checkDestination(u *url.URL) error { return checkBase(u, false) }

// checkBase is checkDestination; inClear lets keys travel beyond this machine without TLS.
func checkBase(u *url.URL, inClear bool) error {
	local := u.Scheme == "http" && (inClear || netaddr.IsLoopback(u.Hostname()))
	plain := u.User == nil && u.Opaque == "" && u.RawQuery == "" && !u.ForceQuery && u.Fragment == ""
	if (u.Scheme != "https" && !local) || u.Hostname() == "" || !plain || !isPort(u.Port()) || !isBasePath(u.EscapedPath()) {
		return errDestination
	}
	return nil
}

func isPort(port string) bool {
	number, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && number > 0
}

func isBasePath(path string) bool { return path == "" || path[0] == '/' && isSafePath(path) }

// destination is where requests with a key go: below a base URL, or to the routes of its host.
type destination struct {
	key *dataplane.Key
	own *url.URL // the key's base URL
	// base is the key's base URL, or that of the upstream which replaces it.
	base *url.URL
	// root is the escaped path on base's host that stands for the root of the provider's own. It has no slash at the end.
	root string
}

// newDestination returns the destination of requests with a key; upstream replaces the key's own base URL unless it is nil.
// Where the name of a custom provider's host leads is checked when the connection is made.
func newDestination(key *dataplane.Key, upstream *url.URL) (destination, error) {
	own, err := key.Base()
	if err != nil || upstream == nil && checkBase(own, key.IsCustom()) != nil { // New has checked upstreams
		return destination{}, errDestination
	}
	d := destination{key: key, own: own, base: own}
	if upstream != nil {
		d.base = upstream
	}
	path := strings.TrimRight(d.base.EscapedPath(), "/")
	d.root = strings.TrimSuffix(path, strings.TrimRight(own.EscapedPath(), "/"))
	return d, nil
}

// join returns the URL of a caller's path: on the root for one of the provider's routes, and otherwise below the base URL. Segments that
// the base URL ends with and the path begins with appear once, so that it works both for clients whose own base URL ends in /v1 and
// for clients that add /v1 themselves.
func (d destination) join(path safePath) *url.URL {
	joined := d.root + string(path)
	if _, ok := d.key.Route(string(path)); !ok {
		base := strings.TrimRight(d.base.EscapedPath(), "/")
		joined = base + string(path)[overlap(base, string(path)):]
	}
	out := &url.URL{Scheme: d.base.Scheme, Host: d.base.Host, Path: joined}
	if strings.IndexByte(joined, '%') >= 0 {
		out.Path, _ = url.PathUnescape(joined) // url.Parse and parsePath have checked it
		out.RawPath = joined
	}
	return out
}

// target returns the URL to which the request for a caller's path goes: join's, on the host that serves it. An upstream stands for all
// hosts of the provider.
func (d destination) target(path safePath) (*url.URL, error) {
	out := d.join(path)
	if d.base != d.own {
		return out, nil
	}
	host, ok := d.key.HostAt(d.pathOnHost(out))
	if !ok {
		return out, errLocation
	}
	out.Host = cmp.Or(host, out.Host)
	return out, nil
}

// pathOnHost returns the path that the target of a request has on the provider's own host. An upstream may stand for that host, and so
// have the provider's routes, or for its base URL.
func (d destination) pathOnHost(target *url.URL) string {
	onHost := strings.TrimPrefix(target.EscapedPath(), d.root)
	if _, ok := d.key.Route(onHost); ok {
		return onHost
	}
	if d.base != d.own {
		if rest, below := strings.CutPrefix(target.EscapedPath(), strings.TrimRight(d.base.EscapedPath(), "/")); below {
			return strings.TrimRight(d.own.EscapedPath(), "/") + rest
		}
	}
	return onHost
}

// overlap returns the length of the longest run of whole segments that base ends with and rest begins with.
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

// CheckUpstreams returns everything that is wrong with a value for Config.Upstreams, in the order of the slugs, including
// unknown providers. New accepts those, because no request can go to them, and checks only the URLs. The error repeats no
// URL, because one may hold a password. inClear is Config.Insecure.
func CheckUpstreams(upstreams map[string]*url.URL, inClear bool) error {
	if len(upstreams) == 0 {
		return nil
	}
	known, err := Providers()
	if err != nil {
		return err
	}
	var wrong []error
	for _, provider := range slices.Sorted(maps.Keys(upstreams)) {
		name := provider
		if !isName(provider, false) {
			name = "of that name" // the text could be anything
		}
		if !slices.Contains(known, provider) {
			wrong = append(wrong, fmt.Errorf("there is no provider %s; this release knows %s", name, strings.Join(known, ", ")))
			continue
		}
		if upstream := upstreams[provider]; upstream == nil || checkBase(upstream, inClear) != nil {
			wrong = append(wrong, fmt.Errorf("the URL of %s %s", name, destinationRule))
		}
	}
	return errors.Join(wrong...)
}

// Providers returns the slugs of this release's provider catalogue. A newer control plane may know more.
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
