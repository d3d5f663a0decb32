package docsite

import (
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// baseMark stands for the reader's base URL in everything that was made before anybody asked. No real URL has it.
const baseMark = "http://reader.invalid"

// bases finds out under which base URL a reader reaches us.
type bases struct {
	trusted  []netip.Prefix
	fallback string
}

// host is a name or an address with a port perhaps. It is what may stand in a page, in a document and in a shell, and
// nothing else may: who asks chooses it.
var host = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$`)

// of returns the base URL, without a slash at its end: what the request says, or what the proxy does that we trust. One
// that names no host gets the document's first server.
func (b *bases) of(r *http.Request) string {
	scheme, name := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if b.trusts(r.RemoteAddr) {
		switch forwarded(r, "X-Forwarded-Proto") {
		case "https":
			scheme = "https"
		case "http":
			scheme = "http"
		}
		if said := forwarded(r, "X-Forwarded-Host"); said != "" {
			name = said
		}
	}
	if !host.MatchString(name) {
		return b.fallback
	}
	return scheme + "://" + strings.ToLower(name)
}

// forwarded returns what the nearest proxy says: it appends to what came to it, or puts its own in place.
func forwarded(r *http.Request, header string) string {
	all := strings.Split(strings.Join(r.Header.Values(header), ","), ",")
	return strings.TrimSpace(all[len(all)-1])
}

func (b *bases) trusts(peer string) bool {
	address, err := netip.ParseAddrPort(peer)
	return err == nil && slices.ContainsFunc(b.trusted, func(p netip.Prefix) bool {
		return p.Masked().Contains(address.Addr().Unmap())
	})
}
