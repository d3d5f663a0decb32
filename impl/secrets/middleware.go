package secrets

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/problem"
)

const (
	// maxBody is the limit on a request body, in bytes: a batch of 256 envelopes.
	maxBody = 1 << 20
	// shortBody is the size in bytes up to which a body takes no room in longBodies. Seals and opens are usually shorter.
	shortBody = 4 << 10
	// maxLongBodies is the most memory, in bytes, that all bodies longer than shortBody may take together.
	// maxClientBodies is the most that such bodies of one client may take.
	maxLongBodies   = 64 << 20
	maxClientBodies = maxLongBodies / 4
)

// permissions maps each operation of the document to the permission that it requires.
var permissions = map[string]Permission{
	"sealSecret": Seal, "openEnvelope": Open, "rewrapEnvelopes": Rewrap, "listKEKs": Status,
}

// admission takes a request through three steps: it checks that the client may use the operation, reads the whole body, and waits for
// a free slot. The body comes before the slot, so that a client that sends slowly holds no slot.
type admission struct {
	clients func(ctx context.Context) *ClientList
	audit   *Audit
	metrics *metrics
	// running holds an element for each operation that runs. admitted holds an element for each operation that runs or
	// waits for a slot.
	running, admitted chan struct{}
	longBodies        *semaphore.Weighted // of maxLongBodies
	clientBodies      sync.Map            // :: client name → *semaphore.Weighted of maxClientBodies
}

func newAdmission(cfg Config) (*admission, error) {
	a := &admission{
		clients: cfg.Clients, audit: cfg.Audit,
		running:    make(chan struct{}, cfg.MaxConcurrent),
		admitted:   make(chan struct{}, cfg.MaxConcurrent+cfg.MaxQueue),
		longBodies: semaphore.NewWeighted(maxLongBodies),
	}
	var err error
	a.metrics, err = newMetrics(cfg.Metrics, func() int { return len(a.running) }, func() int { return len(a.admitted) - len(a.running) })
	return a, err
}

// middleware admits requests and counts their outcomes. It wipes the body at the end of each request.
func (a *admission) middleware(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		call := httpapi.CallFrom(c.Request().Context())
		err := httpapi.ErrInternal // stays if the handler panics
		defer func() { a.metrics.done(call, err) }()
		err = a.serve(c, call, next)
		return err
	}
}

func (a *admission) serve(c echo.Context, call *httpapi.Call, next echo.HandlerFunc) error {
	r := c.Request()
	if err := a.authorize(r.Context(), call); err != nil {
		return refuseUnread(c, err)
	}
	if r.Method == http.MethodPost {
		wipe, err := a.readBody(c)
		if err != nil {
			return refuseUnread(c, err)
		}
		defer wipe()
	}
	release, err := a.acquireSlot(r.Context())
	if err != nil {
		return err
	}
	defer release()
	return next(c)
}

// refuseUnread returns err, and has the connection closed after the answer. Otherwise net/http would wait for the rest of the unread
// body before it sends the answer.
func refuseUnread(c echo.Context, err error) error {
	c.Response().Header().Set("Connection", "close")
	return err
}

// LogAttrs implements httpapi.Actor.
func (c Client) LogAttrs() []slog.Attr { return []slog.Attr{slog.String("client", c.Name)} }

// clientFrom returns the client of the request that ctx belongs to.
func clientFrom(ctx context.Context) Client {
	client, _ := httpapi.CallFrom(ctx).Actor.(Client)
	return client
}

// authorize finds the client at the other end of the connection and refuses operations that the client may not use. It
// audits a refused open. It admits opens of a client that may only seal, because such a client may open the canary; the
// handler refuses its other opens.
func (a *admission) authorize(ctx context.Context, call *httpapi.Call) error {
	identities := Identities(ctx)
	if call.SourceIP == "" && len(identities) > 0 { // a unix socket has no address
		call.SourceIP = identities[0].String()
	}
	client, known := a.clients(ctx).Find(identities)
	if known {
		lifecycle.MarkAuthenticated(ctx)
		call.Actor = client
	}
	permission := permissions[call.Operation]
	if known && (client.May[permission] || permission == Open && client.May[Seal]) {
		return nil
	}
	if permission == Open {
		if err := a.audit.refused(ctx, client, identities, call.ID); err != nil {
			return errors.Join(errClientNotAllowed, httpapi.ErrUnrecorded, err)
		}
	}
	return errClientNotAllowed
}

// readBody reads the whole body into one buffer, which wipe zeroes, and replaces the request's body with it.
func (a *admission) readBody(c echo.Context) (wipe func(), err error) {
	r := c.Request()
	if err := httpapi.CheckMediaType(r.Header); err != nil {
		return nil, err
	}
	size := r.ContentLength // in bytes; -1 if unknown
	switch {
	case size > maxBody:
		return nil, errTooLarge
	case size < 0:
		size = maxBody
	}
	var room int64
	if size > shortBody {
		room = size
	}
	free, ok := a.acquireRoom(clientFrom(r.Context()).Name, room)
	if !ok {
		return nil, errBusy
	}
	var body bytes.Buffer
	body.Grow(int(size) + bytes.MinRead) // so that ReadFrom never grows the buffer, which would leave a copy behind
	wipe = func() {
		clear(body.AvailableBuffer()[:body.Available()])
		clear(body.Bytes())
		free()
	}
	if _, err := body.ReadFrom(http.MaxBytesReader(c.Response(), r.Body, maxBody)); err != nil {
		wipe()
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return nil, errTooLarge
		}
		return nil, problem.Invalid("body", "did not come whole")
	}
	r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	return wipe, nil
}

// acquireRoom takes room for a long body, in bytes, from the client's share and from the total of all clients.
func (a *admission) acquireRoom(client string, room int64) (free func(), ok bool) {
	found, _ := a.clientBodies.LoadOrStore(client, semaphore.NewWeighted(maxClientBodies))
	share, _ := found.(*semaphore.Weighted) // nothing else is stored
	if !share.TryAcquire(room) {
		return nil, false
	}
	if !a.longBodies.TryAcquire(room) {
		share.Release(room)
		return nil, false
	}
	return func() { share.Release(room); a.longBodies.Release(room) }, true
}

// acquireSlot waits until fewer than MaxConcurrent operations run. It fails at once if MaxQueue requests are waiting already.
func (a *admission) acquireSlot(ctx context.Context) (release func(), err error) {
	select {
	case a.admitted <- struct{}{}:
	default:
		return nil, errBusy
	}
	select {
	case a.running <- struct{}{}:
		return func() { <-a.running; <-a.admitted }, nil
	case <-ctx.Done():
		<-a.admitted
		return nil, ctx.Err()
	}
}
