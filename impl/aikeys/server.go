// Package aikeys implements the public API of spec/aikeys.yaml: the handlers behind the generated routes. A request goes
// generated route → authentication, rate limit and validation (impl/httpapi) → handler → access rule → models and sealer →
// reply. It may import spec, gen, models, sealer, and what else is in impl.
package aikeys

import (
	"context"
	"fmt"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// Config is what the public API needs.
type Config struct {
	Store     *models.Store
	Sealer    sealer.Sealer
	Canary    *keysetcheck.Checker
	Receipts  Receipts
	Providers *providers.Catalogue
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// API is the shared part; its Document is set here.
	API httpapi.Config
}

// Receipts tells how far the revocation of a key has come; *feed.Feed does.
type Receipts interface {
	Receipt(ctx context.Context, k models.Key) (feed.Receipt, error)
	// WaitForReceipt returns the receipt when it is complete, or as it is when the time to wait is over.
	WaitForReceipt(ctx context.Context, k models.Key, wait time.Duration) (feed.Receipt, error)
}

// server holds the handlers; each resource has a file of its own.
type server struct {
	store     *models.Store
	sealer    sealer.Sealer
	canary    *keysetcheck.Checker
	receipts  Receipts
	providers *providers.Catalogue
	now       func() time.Time
	ids       models.IDs
	// wholeLists bounds the memory that one user can ask for: a list without pages is as large as its project.
	wholeLists *httpapi.Gate
}

// maxWholeLists is how many lists without pages one user may have under way at once. Pages are not bounded.
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
	s := &server{store: cfg.Store, sealer: cfg.Sealer, canary: cfg.Canary, receipts: cfg.Receipts, providers: cfg.Providers, now: cfg.Now,
		wholeLists: httpapi.NewGate(maxWholeLists)}
	if s.now == nil {
		s.now = time.Now
	}
	gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(s, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]}),
		gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo, nil
}

// caller says on whose behalf, and on which project, the request acts. A session reaches the projects of its own customer
// alone: another customer's are answered like projects that it is no member of.
func (s *server) caller(ctx context.Context, customerID, projectID string) (models.Caller, error) {
	who := httpapi.CallFrom(ctx).Principal
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
