package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// demoInterval is the least time between two requests to a gateway.
const demoInterval = time.Millisecond

// demoGateway is one of the demonstration's gateways, and those who send requests to it.
type demoGateway struct {
	*devGateway
	name         string
	token        string
	acknowledged *acknowledgements
	client       *http.Client
	attempts     []attempt
}

// attempt is one request: when it was sent, when it had been answered, and with which status.
type attempt struct {
	sent, answered time.Time
	status         int
}

func newDemoGateway(ctx context.Context, name string, s *service, upstream *url.URL) (g *demoGateway, err error) {
	g = &demoGateway{
		name: name, acknowledged: &acknowledgements{next: &http.Transport{}}, client: &http.Client{Transport: &http.Transport{}},
	}
	g.devGateway, err = newDevGateway(ctx, devGatewayConfig{
		listen: anyPort, controlPlane: s.dataplane.URL(), token: func() string { return g.token },
		client: &http.Client{Transport: g.acknowledged}, upstreams: map[string]*url.URL{demoProvider: upstream},
		drain: s.cfg.ShutdownTimeout, log: s.log,
	})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error {
		g.close()
		return nil
	})
	return g, nil
}

// send sends a chat completion as a provider's SDK would, with the gateway's URL for the provider's.
func (g *demoGateway) send(ctx context.Context, apiKey, body string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL()+"/"+demoProvider+"/chat/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+apiKey)
	request.Header.Set("Content-Type", "application/json")
	return g.client.Do(request)
}

// load sends a request every millisecond, or as fast as the machine can, until ctx ends. The last one is answered.
func (g *demoGateway) load(ctx context.Context, apiKey string) error {
	ticker := time.NewTicker(demoInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		made := attempt{sent: time.Now()}
		response, err := g.send(context.WithoutCancel(ctx), apiKey, `{"model":"demo","messages":[{"role":"user","content":"And now?"}]}`)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		_, err = io.Copy(io.Discard, response.Body)
		if closeErr := response.Body.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		made.answered, made.status = time.Now(), response.StatusCode
		g.attempts = append(g.attempts, made)
	}
}

// acknowledgements passes the requests of a data plane on to the control plane, and notes what it acknowledges when.
type acknowledgements struct {
	next *http.Transport

	mu   sync.Mutex
	sent []acknowledgement
}

type acknowledgement struct {
	at       time.Time
	position models.Position
}

// RoundTrip implements http.RoundTripper.
func (a *acknowledgements) RoundTrip(r *http.Request) (*http.Response, error) {
	at := time.Now()
	response, err := a.next.RoundTrip(r)
	if err == nil && response.StatusCode == http.StatusNoContent && strings.HasSuffix(r.URL.Path, "/v1/acknowledgements") && r.GetBody != nil {
		a.note(r, at)
	}
	return response, err
}

func (a *acknowledgements) note(r *http.Request, at time.Time) {
	body, err := r.GetBody()
	if err != nil {
		return
	}
	var acknowledged gen.AcknowledgeRequest
	if json.NewDecoder(body).Decode(&acknowledged) != nil {
		return
	}
	position, err := models.ParsePosition(acknowledged.Position)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = append(a.sent, acknowledgement{at, position})
}

// CloseIdleConnections is what the data plane calls when it ends.
func (a *acknowledgements) CloseIdleConnections() { a.next.CloseIdleConnections() }

// of returns when the data plane first acknowledged a transaction.
func (a *acknowledgements) of(tx int64) (at time.Time, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.sent {
		if one.position.Holds(tx) {
			return one.at, true
		}
	}
	return time.Time{}, false
}
