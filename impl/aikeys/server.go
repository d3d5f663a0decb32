// Package aikeys implements the public API of spec/aikeys.yaml: the handlers behind the generated routes. A request passes the
// generated route, authentication, rate limit and validation, and then its handler, which parses, authorizes, acts and
// answers. The package may import spec, gen, models, sealer, and the other packages of impl.
package aikeys

import (
	"context"
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
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// Config is what the public API needs.
type Config struct {
	Store *models.Store
	// Keyset seals. It refuses to seal if the sealer has another keyset than the database's.
	Keyset    *keysetcheck.Checker
	Receipts  Receipts
	Providers *providers.Catalogue
	Quotas    Quotas
	// Denials writes the events of denied attempts; nil writes an event for each attempt.
	Denials *Denials
	// Verifier tests secrets at their providers before they are registered; nil makes no tests.
	Verifier Verifier
	// Opener opens the stored secrets of a key during a rotation, to compare them with the new secret. It is nil if
	// this process may not open secrets.
	Opener sealer.Sealer
	// Tests tests stored keys.
	Tests *verification.Keys
	// CustomProviders is whether the customers' own servers take keys, and OwnersAddProviders whether owners may add them.
	CustomProviders, OwnersAddProviders bool
	// SessionTokens is whether session tokens are accepted. SignIn is how people get a session token; nil if they
	// can't.
	SessionTokens bool
	SignIn        *auth.SignIn
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// API configures what all APIs share. NewHandler sets its Document.
	API httpapi.Config
}

// Quotas are how many active keys there may be; 0 is no limit.
type Quotas struct {
	// Project bounds the project-level keys of each project, User each member's own keys in a project.
	Project, User int
}

// Verifier tests secrets; *verification.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, caller models.Caller, p providers.Provider, secret string) verification.Result
}

// Receipts reports how far a key's stop has got; *feed.Feed implements it.
type Receipts interface {
	// WaitForReceipt returns the receipt when it is complete, or when the time to wait is over.
	WaitForReceipt(ctx context.Context, stop models.Stop, wait time.Duration) (feed.Receipt, error)
}

// server holds the handlers.
type server struct {
	Config
	ids    models.IDs
	waits  waits
	leaks  *ratelimit.Limiter[string]
	signIn gen.SignInOptionsResponse
}

var _ gen.StrictServerInterface = (*server)(nil)

// document is the parsed OpenAPI document. Handlers share it, since parsing it takes longer than everything else that
// NewHandler does.
var document = sync.OnceValues(gen.GetSpec)

// NewHandler returns the public API.
func NewHandler(cfg Config) (http.Handler, error) {
	doc, err := document()
	if err != nil {
		return nil, fmt.Errorf("public API document: %w", err)
	}
	cfg.API.Document, cfg.API.Problems = doc, problems
	api, err := httpapi.NewAPI(cfg.API)
	if err != nil {
		return nil, fmt.Errorf("public API: %w", err)
	}
	cfg.OwnersAddProviders = cfg.OwnersAddProviders && cfg.CustomProviders
	if cfg.Denials == nil {
		cfg.Denials = &Denials{store: cfg.Store}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &server{
		Config: cfg, waits: waits{byUser: map[string]int{}}, leaks: ratelimit.New[string](leakRate), signIn: wireSignIn(cfg),
	}
	gen.RegisterHandlersWithOptions(api.Echo, gen.NewStrictHandler(s, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]}),
		gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo, nil
}
