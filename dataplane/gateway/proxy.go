package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
)

// rewrite makes the provider's request of the caller's.
func (g *Gateway) rewrite(pr *httputil.ProxyRequest) {
	ex := exchangeOf(pr.In.Context())
	pr.Out.URL = ex.target
	pr.Out.Host = ""
	if pr.Out.Header["Upgrade"] != nil && !isWebSocket(pr.Out.Header) {
		delete(pr.Out.Header, "Upgrade")
		delete(pr.Out.Header, "Connection")
	}
	stripRequest(pr.Out.Header, ex.credential)
	if pr.Out.Body != nil {
		// The server fills in the trailers of the request that came when its body has been read: share them.
		stripRequest(pr.In.Trailer, ex.credential)
		pr.Out.Trailer = pr.In.Trailer
		pr.Out.Body = &body{pr.Out.Body, ex, pr.In.Trailer}
	}
	ex.err = ex.key.Authorize(pr.Out.Header)
}

// sender is where requests leave for the provider.
type sender struct{ transport http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s sender) RoundTrip(r *http.Request) (*http.Response, error) {
	ex := exchangeOf(r.Context())
	if ex.err != nil { // rewrite can't fail by itself
		if r.Body != nil {
			_ = r.Body.Close() // nothing was read of it
		}
		return nil, ex.err
	}
	ex.sent = time.Now()
	return s.transport.RoundTrip(r)
}

// answered takes the head of the provider's answer.
func (g *Gateway) answered(res *http.Response) error {
	ex := exchangeOf(res.Request.Context())
	ex.status, ex.answered = res.StatusCode, true
	g.metrics.upstream.WithLabelValues(ex.provider).Observe(time.Since(ex.sent).Seconds())
	g.resolver.Report(ex.key, res.StatusCode)
	stripAnswer(res.Header)
	res.Header[HeaderKeyID] = []string{ex.key.ID}
	res.Header[HeaderReason] = []string{ex.key.Reason}
	res.Header[HeaderRequestID] = []string{ex.id}
	if ex.leavesBody() {
		res.Header["Connection"] = []string{"close"}
	}
	return nil
}

// failed answers where no provider does.
func (g *Gateway) failed(w http.ResponseWriter, r *http.Request, err error) {
	ex := exchangeOf(r.Context())
	switch {
	case errors.Is(err, dataplane.ErrUnsupportedAuth):
	case r.Context().Err() != nil:
		err = context.Canceled
	default:
		err = upstream(err)
	}
	g.refuse(w, r, ex, err)
}
