package docsite

import (
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// baseURL finds the base URL under which a reader reaches the service.
type baseURL struct {
	trusted  []netip.Prefix // networks of proxies
	fallback string
}

// hostPattern is a host name or an address, perhaps with a port. The client chooses the Host header, so the pattern
// allows only hosts that are safe in a page, a document and a shell.
var hostPattern = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$`)

// forRequest returns the base URL without a trailing slash. The headers of a trusted proxy take precedence over the
// request's own scheme and host. If the host is not valid, it returns the fallback.
func (b *baseURL) forRequest(r *http.Request) string {
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if b.isTrusted(r.RemoteAddr) {
		if proto := lastForwarded(r, "X-Forwarded-Proto"); proto == "https" || proto == "http" {
			scheme = proto
		}
		if forwarded := lastForwarded(r, "X-Forwarded-Host"); forwarded != "" {
			host = forwarded
		}
	}
	if !hostPattern.MatchString(host) {
		return b.fallback
	}
	return scheme + "://" + strings.ToLower(host)
}

// lastForwarded returns the last value of a header: each proxy appends its own, so the nearest one's comes last.
func lastForwarded(r *http.Request, header string) string {
	all := strings.Join(r.Header.Values(header), ",")
	return strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
}

func (b *baseURL) isTrusted(peer string) bool {
	address, err := netip.ParseAddrPort(peer)
	return err == nil && slices.ContainsFunc(b.trusted, func(p netip.Prefix) bool {
		return p.Masked().Contains(address.Addr().Unmap())
	})
}
