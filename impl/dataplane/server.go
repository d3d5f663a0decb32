// Package dataplane implements the data planes' API of spec/dataplane.yaml. Its answers hold provider keys in plain text, so the
// API has a listener of its own.
//
// A fetch passes the generated route, authentication of the data plane (impl/auth) and validation (impl/httpapi). Its
// handler authenticates the caller (impl/auth). It reads the policy and the keys in one statement, which checks the
// data plane and the caller again (models). It chooses a key (impl/resolution), opens it (impl/providers) and, for a
// few clouds, exchanges it for a token (impl/exchange). It stores the record before it answers. impl/feed serves the
// stream of changes.
//
// The package may import spec, gen, models, sealer, and the rest of impl.
package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// Store is what the handlers need of the database; *models.Store is one.
type Store interface {
	resolution.Store
	FetchByID(ctx context.Context, dataPlaneID, id string, now int64) (models.Key, string, error)
	RecordFetch(ctx context.Context, r models.FetchRecord) error
	FindDataPlane(ctx context.Context, id string) (models.DataPlane, error)
	CustomProvider(ctx context.Context, customerID, projectID, slug string) (models.CustomProvider, error)
	ReportKeys(ctx context.Context, d models.DataPlane, reports []models.KeyReport, newEvent models.NewKeyEvent) (failing []models.Key, err error)
	AddUsage(ctx context.Context, d models.DataPlane, b models.UsageBatch) error
	ClaimKeyTest(ctx context.Context, dataPlaneID, id string, now int64) (models.KeyTest, error)
	FindKeyTest(ctx context.Context, id string) (models.KeyTest, error)
	AnswerKeyTest(ctx context.Context, dataPlaneID, id, verdict, reason string) error
}

// Config is what the data planes' API needs. All fields but Tests, Exchanger, CustomProviders, MaxStale and Now are required.
type Config struct {
	Store     Store
	Sealer    sealer.Sealer
	Providers *providers.Catalogue
	// Sessions authenticates the callers on whose behalf data planes fetch keys.
	Sessions auth.Sessions
	Feed     *feed.Feed
	// Tests tests the keys that data planes report as refused; nil tests none.
	Tests *verification.Keys
	// Exchanger exchanges the credentials of clouds for tokens; nil means a new one.
	Exchanger *exchange.Exchanger
	// CustomProviders is whether keys for customers' own servers are served.
	CustomProviders bool
	// MaxStale is the longest grace that a data plane may declare. It bounds how long receipts are pending. Zero allows no grace.
	MaxStale time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// API configures what all APIs share. Its Authenticate authenticates data planes; NewHandler sets its Document.
	API httpapi.Config
}

// server implements the operations of the document.
type server struct {
	Config

	ids models.IDs
}

var _ gen.StrictServerInterface = (*server)(nil)

// NewHandler returns the data planes' API.
func NewHandler(cfg Config) (http.Handler, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("data planes' API document: %w", err)
	}
	cfg.API.Document, cfg.API.Problems = doc, problems
	api, err := httpapi.NewAPI(cfg.API)
	if err != nil {
		return nil, fmt.Errorf("data planes' API: %w", err)
	}
	if cfg.Exchanger == nil {
		cfg.Exchanger = exchange.New(nil)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	strict := gen.NewStrictHandler(&server{Config: cfg}, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]})
	gen.RegisterHandlersWithOptions(api.Echo, strict, gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo, nil
}

// dataPlane reads the data plane that sent the request. The error is models.ErrDataPlaneEnded if its credential has been revoked
// or has expired.
func (s *server) dataPlane(ctx context.Context) (models.DataPlane, error) {
	d, err := s.Store.FindDataPlane(ctx, auth.PrincipalFrom(ctx).DataPlaneID)
	if errors.Is(err, models.ErrNotFound) || (err == nil && !d.Live(s.Now().UnixMicro())) {
		return models.DataPlane{}, models.ErrDataPlaneEnded
	}
	return d, err
}
