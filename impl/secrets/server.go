// Package secrets implements the secrets service of spec/secrets.yaml: the handlers behind the generated routes, and what
// stands before them. A request goes generated route → the door (who calls, by the connection; may they; is there room) →
// validation (impl/httpapi) → the sealer of the client's namespace → audit → reply. Bodies, secrets and replies are in
// memory that is zeroed when the request is over; docs/secrets.md says how far that goes.
//
// It knows no backend: a namespace is a sealer.Sealer. It may import spec, gen, sealer, and what else is in impl.
package secrets

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/sealer"
)

// Namespaces finds the sealers of namespaces. It is asked with names that the operator has listed alone.
type Namespaces interface {
	// Sealer returns a namespace's sealer, or sealer.ErrUnavailable while it has none.
	Sealer(ctx context.Context, namespace string) (sealer.Sealer, error)
}

// Clients tells who is at the other end of a connection; *ClientsFile is one.
type Clients interface {
	// Find returns the one client with one of these identities; ok is false when there is none, or more than one.
	Find(ctx context.Context, identities []identity.Identity) (client Client, ok bool)
}

// Config is what the service needs. All of it is required.
type Config struct {
	Clients    Clients
	Namespaces Namespaces
	Audit      *Audit
	Metrics    prometheus.Registerer
	// MaxConcurrent is how many operations are worked on at once, MaxQueue how many more may wait for that.
	MaxConcurrent, MaxQueue int
	// API is the shared part, of which the Observer is required; the rest is set here.
	API httpapi.Config
}

// server holds the handlers.
type server struct {
	namespaces Namespaces
	audit      *Audit
}

var _ gen.StrictServerInterface = (*server)(nil)

// NewHandler returns the service. Its http.Server must have ConnContext, and listeners whose peers Identities knows.
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
	s := &server{namespaces: cfg.Namespaces, audit: cfg.Audit}
	strict := gen.NewStrictHandler(s, []gen.StrictMiddlewareFunc{httpapi.RequireChecked[gen.StrictHandlerFunc]})
	gen.RegisterHandlersWithOptions(api.Echo, strict, gen.RegisterHandlersOptions{OperationMiddlewares: api.Middlewares})
	return api.Echo, nil
}
