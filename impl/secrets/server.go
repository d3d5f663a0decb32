// Package secrets implements the secrets service of spec/secrets.yaml. A request passes through the generated route, admission
// (middleware.go: identify the client by its connection, check its permission, read the body, acquire a slot), validation
// (impl/httpapi), the handler with the sealer of the client's namespace, and for an open the audit. Bodies, secrets and responses are
// in memory that is zeroed when the request is over; docs/secrets.md describes the limits of that.
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
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/sealer"
)

// Namespaces finds the sealers of namespaces. It is called only with namespaces of the clients file.
type Namespaces interface {
	// Sealer returns a namespace's sealer, or sealer.ErrUnavailable while the namespace has no keyset.
	Sealer(ctx context.Context, namespace string) (sealer.Sealer, error)
}

// Clients finds the client at the other end of a connection. *ClientsFile implements it.
type Clients interface {
	// Find returns the client that has one of these identities; ok is false if no client or more than one does.
	Find(ctx context.Context, identities []identity.Identity) (client Client, ok bool)
}

// Config is what the service needs. All of it is required.
type Config struct {
	Clients    Clients
	Namespaces Namespaces
	Audit      *Audit
	Metrics    prometheus.Registerer
	// MaxConcurrent is how many operations run at once, MaxQueue how many more may wait to run.
	MaxConcurrent, MaxQueue int
	// API configures impl/httpapi. Its Observer is required; NewHandler sets Document, Problems, Authenticate and MaxBody.
	API httpapi.Config
}

// server holds the handlers.
type server struct {
	namespaces Namespaces
	audit      *Audit
}

var _ gen.StrictServerInterface = (*server)(nil)

// NewHandler returns the service's handler. Its http.Server must set ConnContext, and listen with TLS or through unixsocket.WithPeers.
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
