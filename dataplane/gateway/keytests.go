package gateway

import (
	"net/http"

	"github.com/agentrouter/aikeys/dataplane"
)

// SendTest sends a request that tests a key of a provider with this base URL, as requests of callers are sent: to the provider's upstream
// if it has one, and for a custom provider to the addresses that the operator allows. It follows no redirect. It implements
// dataplane.Config's SendTest.
func (g *Gateway) SendTest(provider, baseURL string, request *http.Request) (*http.Response, error) {
	key := &dataplane.Key{Provider: provider, BaseURL: baseURL}
	upstream := g.upstreams[provider]
	d, err := newDestination(key, upstream)
	if err != nil {
		return nil, err
	}
	target := *request.URL
	target.RawQuery = ""
	if checkBase(&target, key.IsCustom()) != nil || key.IsCustom() && (target.Scheme != d.own.Scheme || target.Host != d.own.Host) {
		return nil, errDestination
	}
	if upstream != nil {
		request.URL.Scheme, request.URL.Host, request.URL.Path = upstream.Scheme, upstream.Host, d.root+request.URL.Path
		request.Host = upstream.Host
	}
	if key.IsCustom() {
		return g.custom.RoundTrip(request)
	}
	return g.transport.RoundTrip(request)
}
