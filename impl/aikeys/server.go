// Package aikeys implements the public API of spec/aikeys.yaml: the handlers behind the generated routes. A request passes the
// generated route, authentication, rate limit and validation, and then its handler, which parses, authorizes, acts and
// answers. The package may import spec, gen, models, sealer, and the other packages of impl.
package aikeys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
)

// Config is what the public API needs.
type Config struct {
	Store *models.Store
	// Keyset seals, and refuses to seal with another keyset than the database's.
	Keyset    *keysetcheck.Checker
	Receipts  Receipts
	Providers *providers.Catalogue
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// API is the shared part; its Document is set here.
	API httpapi.Config
}

// Receipts reports how far the revocation of a key has got; *feed.Feed implements it.
type Receipts interface {
	Receipt(ctx context.Context, k models.Key) (feed.Receipt, error)
	// WaitForReceipt returns the receipt when it is complete, or as it is when the time to wait is over.
	WaitForReceipt(ctx context.Context, k models.Key, wait time.Duration) (feed.Receipt, error)
}

// server holds the handlers. Those of keys are in keys.go, all others in project.go.
type server struct {
	store     *models.Store
	keyset    *keysetcheck.Checker
	receipts  Receipts
	providers *providers.Catalogue
	now       func() time.Time
	ids       models.IDs
	// wholeLists bounds the memory that one user can make the service use: a list without pages is as large as its project.
	wholeLists *gate
}

// maxWholeLists is how many lists without pages one user may request at once. Pages are not bounded.
const maxWholeLists = 4

var _ gen.StrictServerInterface = (*server)(nil)

// NewHandler returns the public API.
func NewHandler(cfg Config) (http.Handler, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("public API document: %w", err)
	}
	cfg.API.Document, cfg.API.Problems = doc, problems
	api, err := httpapi.NewAPI(cfg.API)
	if err != nil {
		return nil, fmt.Errorf("public API: %w", err)
	}
	s := &server{store: cfg.Store, keyset: cfg.Keyset, receipts: cfg.Receipts, providers: cfg.Providers, now: cfg.Now,
		wholeLists: newGate(maxWholeLists)}
	if s.now == nil {
		s.now = time.Now
	}
	gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(s, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]}),
		gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo, nil
}

// caller returns the user on whose behalf a request acts, and the project that it acts on. A session reaches only the projects of
// its own customer; for another customer's projects the answer is the same as for projects of which the user is no member.
func (s *server) caller(ctx context.Context, customerID, projectID string) (models.Caller, error) {
	who := auth.PrincipalFrom(ctx)
	if customerID == httpapi.SessionDefault {
		customerID = who.CustomerID
	}
	if projectID == httpapi.SessionDefault {
		projectID = who.ProjectID
	}
	if customerID != who.CustomerID {
		return models.Caller{}, fmt.Errorf("%w: project of another customer", models.ErrNotMember)
	}
	return models.Caller{CustomerID: customerID, ProjectID: projectID, UserID: who.UserID, TokenID: who.TokenID}, nil
}

// member returns the caller if they are a member of the project.
func (s *server) member(ctx context.Context, customerID, projectID string) (models.Caller, error) {
	caller, err := s.caller(ctx, customerID, projectID)
	if err != nil {
		return caller, err
	}
	_, err = s.store.Role(ctx, caller, s.now().UnixMicro())
	return caller, err
}

// event returns the audit event of what a request does in a project.
func (s *server) event(ctx context.Context, what models.EventType, caller models.Caller) models.Event {
	call, who, now := httpapi.CallFrom(ctx), auth.PrincipalFrom(ctx), s.now()
	return models.Event{
		ID: s.ids.Next(models.EventIDPrefix, now), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID,
		Type: what, Outcome: models.OutcomeAllowed, At: now.UnixMicro(),
		ActorUserID: who.UserID, ActorMethod: string(who.Method), ActorTokenID: who.TokenID,
		SourceIP: call.SourceIP, RequestID: call.ID,
	}
}

// keyEvent returns the audit event of what a request does to a key.
func (s *server) keyEvent(ctx context.Context, what models.EventType, caller models.Caller, key models.Key) models.Event {
	event := s.event(ctx, what, caller)
	event.ScopeUserID, event.KeyID, event.Provider = key.UserID, key.ID, key.Provider
	return event
}

// asOwner runs a write that only an owner may do, and that stores event. A member's attempt is recorded as denied.
func (s *server) asOwner(ctx context.Context, caller models.Caller, event models.Event, write func(*models.Tx) error) error {
	err := s.store.Transact(ctx, func(tx *models.Tx) error {
		role, err := tx.Role(caller)
		if err != nil {
			return err
		}
		if role != models.RoleOwner {
			return models.ErrForbidden
		}
		return write(tx)
	})
	return s.recordDenied(ctx, err, event)
}

// recordDenied returns err. If err says that a member lacks the role, it first adds the denied attempt to the audit trail, even
// if the client has disconnected.
func (s *server) recordDenied(ctx context.Context, err error, event models.Event) error {
	if !errors.Is(err, models.ErrForbidden) {
		return err
	}
	event.Outcome = models.OutcomeDenied
	if event.Type == models.EventKeyRegistered {
		event.KeyID = "" // no key was created
	}
	lost := s.store.Transact(context.WithoutCancel(ctx), func(tx *models.Tx) error { return tx.AppendEvent(event) })
	if lost != nil {
		return fmt.Errorf("%w: %w: %w", err, httpapi.ErrUnrecorded, lost)
	}
	return err
}

// gate bounds how many of a user's requests are at work at once. It holds only the users who have some.
type gate struct {
	limit int

	mu   sync.Mutex
	held map[string]int // by user; guarded by mu
}

func newGate(limit int) *gate { return &gate{limit: limit, held: map[string]int{}} }

// enter admits a request, which must call leave, or refuses it with httpapi.ErrTooManyRequests.
func (g *gate) enter(user string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held[user] >= g.limit {
		return nil, httpapi.ErrTooManyRequests
	}
	g.held[user]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held[user]--; g.held[user] == 0 {
			delete(g.held, user)
		}
	}, nil
}
