package extauthz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	// maxMessage leaves room for the head of a request, which Envoy bounds to 60 KiB by default; bodies are not wanted.
	maxMessage   = 256 << 10
	defaultDrain = 10 * time.Second
)

// errPanic becomes the answer for internal errors.
var errPanic = errors.New("panic")

// ServeConfig are the settings of Serve; the zero value is plain text.
type ServeConfig struct {
	// TLS is the server's side of TLS, with ClientAuth where Envoy has to prove itself; nil is plain text.
	TLS *tls.Config
	// Drain is how long checks may go on after the end of the context; 10 seconds if zero.
	Drain time.Duration
}

// Serve answers checks on the listener, and the standard health service beside them, until ctx ends. Then it tells
// that it is not serving, and returns when the checks in flight are answered. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, server *Server, cfg ServeConfig) error {
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage), grpc.UnaryInterceptor(server.recovering)}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	rpc := grpc.NewServer(options...)
	healthy := health.NewServer()
	authv3.RegisterAuthorizationServer(rpc, server)
	healthv1.RegisterHealthServer(rpc, healthy)
	failed := make(chan error, 1)
	go func() { failed <- rpc.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve ext_authz: %w", err)
	case <-ctx.Done():
	}
	healthy.Shutdown()
	drain := cfg.Drain
	if drain == 0 {
		drain = defaultDrain
	}
	cut := time.AfterFunc(drain, rpc.Stop)
	defer cut.Stop()
	rpc.GracefulStop()
	return <-failed
}

func (s *Server) recovering(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (response any, err error) {
	started := time.Now()
	defer func() {
		if refusal := s.recovered(ctx, started, recover()); refusal != nil {
			response, err = refusal, nil
		}
	}()
	return next(ctx, request)
}
