package gateway

import (
	"net/http"
	"strings"
)

const (
	forwardedPrefix    = "X-Forwarded-"
	webSocketProtocols = "Sec-Websocket-Protocol"
	// Browsers can't set headers on WebSockets, so they send the key as a protocol with this prefix.
	webSocketKeyPrefix = "openai-insecure-api-key."
)

// stripRequest removes the headers that are not for the provider: credentials of every style, any header that contains
// the caller's credential, cookies, the gateway's own headers, and those that identify the caller.
func stripRequest(header http.Header, credential string) {
	if protocols, ok := header[webSocketProtocols]; ok {
		stripProtocols(header, protocols, credential)
	}
	for name, values := range header {
		if isPrivate(name) || anyContains(values, credential) {
			delete(header, name)
		}
	}
}

// isPrivate reports whether a header is never passed on to a provider.
func isPrivate(name string) bool {
	switch name {
	case headerAuthorization, headerXAPIKey, headerXGoogAPIKey, headerAPIKey, "Cookie",
		"Via", "Forwarded", "X-Real-Ip", "True-Client-Ip",
		"X-Original-Url", "X-Rewrite-Url": // they replace the path on some servers
		return true
	}
	return strings.HasPrefix(name, forwardedPrefix) || strings.HasPrefix(name, ownPrefix)
}

func anyContains(values []string, credential string) bool {
	for _, value := range values {
		if strings.Contains(value, credential) {
			return true
		}
	}
	return false
}

// stripProtocols removes the WebSocket protocols that carry a key.
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

// stripResponse removes the headers by which the provider speaks of its own host: clients would apply them to the
// gateway's.
func stripResponse(header http.Header) {
	delete(header, "Set-Cookie")
	delete(header, "Alt-Svc")
	delete(header, "Strict-Transport-Security")
}

// isWebSocket reports whether an upgrade may pass. Any other protocol, such as h2c, would be a tunnel to the whole host
// of the provider.
func isWebSocket(header http.Header) bool {
	upgrades := header["Upgrade"]
	return len(upgrades) == 1 && strings.EqualFold(upgrades[0], "websocket")
}
