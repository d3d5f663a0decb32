// Package secrets implements the secrets service of spec/secrets.yaml. A request passes through the generated route,
// admission (middleware.go: identify the client by its connection, check its permission, read the body, acquire a
// slot), validation (impl/httpapi), the handler with the sealer of the client's namespace, and for an open the audit.
// The memory of bodies, secrets and responses is zeroed after the request; docs/secrets.md describes the limits of this
// protection.
//
// The package knows no backend: a namespace is a sealer.Sealer. It may import spec, gen, sealer, and the rest of impl.
package secrets

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/sealer"
)

// Config is what the service needs. All of it is required.
type Config struct {
	// Clients returns the current list of clients.
	Clients func(ctx context.Context) *ClientList
	// Sealer returns the sealer of a client's namespace, or sealer.ErrUnavailable while the namespace has no keyset.
	Sealer  func(ctx context.Context, namespace string) (sealer.Sealer, error)
	Audit   *Audit
	Metrics prometheus.Registerer
	// MaxConcurrent is how many operations run at once, MaxQueue how many more may wait to run.
	MaxConcurrent, MaxQueue int
	// API configures impl/httpapi. Its Observer is required; NewHandler sets Document, Problems, Authenticate and MaxBody.
	API httpapi.Config
}

// server holds the handlers.
type server struct {
	sealer func(ctx context.Context, namespace string) (sealer.Sealer, error)
	audit  *Audit
}

var _ gen.StrictServerInterface = (*server)(nil)

// NewHandler returns the service's handler. The http.Server must set ConnContext, and listen with TLS or through unixsocket.WithPeers.
func NewHandler(cfg Config) (http.Handler, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, fmt.Errorf("secrets service's API document: %w", err)
	}
	admission, err := newAdmission(cfg)
	if err != nil {
		return nil, err
	}
	cfg.API.Document, cfg.API.Problems, cfg.API.Authenticate, cfg.API.MaxBody = doc, problems, admission.middleware, maxBody
	api, err := httpapi.NewAPI(cfg.API)
	if err != nil {
		return nil, fmt.Errorf("secrets service: %w", err)
	}
	s := &server{sealer: cfg.Sealer, audit: cfg.Audit}
	strict := gen.NewStrictHandler(s, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]})
	gen.RegisterHandlersWithOptions(api.Echo, strict, gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo, nil
}
