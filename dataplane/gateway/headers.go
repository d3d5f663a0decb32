package gateway

import (
	"io"
	"net/http"
	"strings"
)

const (
	forwardedPrefix    = "X-Forwarded-"
	webSocketProtocols = "Sec-Websocket-Protocol"
	webSocketKeyPrefix = "openai-insecure-api-key." // a browser's way to send a key, which can set no header
)

// stripRequest removes what is not for the provider: credentials of every style, whatever else the caller's own
// credential stands in, cookies, our own headers, and who the caller is. Hop-by-hop headers are gone by then.
func stripRequest(header http.Header, credential string) {
	if protocols, ok := header[webSocketProtocols]; ok {
		stripProtocols(header, protocols, credential)
	}
	for name, values := range header {
		if isPrivate(name) || holds(values, credential) {
			delete(header, name)
		}
	}
}

func isPrivate(name string) bool {
	switch name {
	case authorization, headerX, headerGoogle, headerAPI, "Cookie", "Via", "Forwarded", "X-Real-Ip", "True-Client-Ip",
		"X-Original-Url", "X-Rewrite-Url": // another path, to some servers
		return true
	}
	return strings.HasPrefix(name, forwardedPrefix) || strings.HasPrefix(name, ownPrefix)
}

func holds(values []string, credential string) bool {
	for _, value := range values {
		if strings.Contains(value, credential) {
			return true
		}
	}
	return false
}

func stripProtocols(header http.Header, protocols []string, credential string) {
	var kept []string
	for protocol := range strings.SplitSeq(strings.Join(protocols, ","), ",") {
		protocol = strings.TrimSpace(protocol)
		if protocol != "" && !strings.HasPrefix(protocol, webSocketKeyPrefix) && !strings.Contains(protocol, credential) {
			kept = append(kept, protocol)
		}
	}
	if len(kept) == 0 {
		delete(header, webSocketProtocols)
		return
	}
	header[webSocketProtocols] = []string{strings.Join(kept, ", ")}
}

// stripAnswer removes what the provider says of its own host, which would be taken to be said of ours.
func stripAnswer(header http.Header) {
	delete(header, "Set-Cookie")
	delete(header, "Alt-Svc")
	delete(header, "Strict-Transport-Security")
}

// isWebSocket tells whether an upgrade may pass. Any other protocol (h2c) would be a tunnel to the provider's whole
// host.
func isWebSocket(header http.Header) bool {
	upgrades := header["Upgrade"]
	return len(upgrades) == 1 && strings.EqualFold(upgrades[0], "websocket")
}

// body is a request's body on its way. It notices the end, and strips the trailers, which are there from then on.
type body struct {
	io.ReadCloser
	exchange *exchange
	trailer  http.Header
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		stripRequest(b.trailer, b.exchange.credential)
		b.exchange.bodyRead.Store(true)
	}
	return n, err
}
