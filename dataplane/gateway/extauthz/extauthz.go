// Package extauthz answers Envoy's external authorization filter over gRPC (envoy.service.auth.v3.Authorization). Envoy
// proxies the requests itself; the answer says which header Envoy sets and which headers it removes. If a later filter
// sets the header, as Envoy AI Gateway's does, the answer has the key in the dynamic metadata instead:
// context_extensions: {credential: metadata}.
//
// The provider comes from the route's configuration, context_extensions: {provider: openai}, and never from the request.
// Envoy decides where a request goes, so the operator must route it to that provider's hosts and nowhere else.
//
// Envoy does not pass on the provider's answer, so refused keys are not reported. The answers carry providers' keys in
// plain text: serve them where callers can't reach them.
package extauthz

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/internal/lifecycle"
)

const (
	// maxMessage leaves room for the head of a request, which Envoy bounds to 60 KiB by default. Envoy should send no bodies.
	maxMessage   = 256 << 10
	defaultDrain = 10 * time.Second
	// A third of the files that the process may open is for the connections of one listener, as with the gateway's others.
	fileShare      = 3
	maxConnections = 1_000_000
)

// errPanic is answered with the problem for internal errors.
var errPanic = errors.New("panic")

const (
	// ProviderExtension is the member of a route's context_extensions that names the provider.
	ProviderExtension = "provider"
	// CredentialExtension is the member of a route's context_extensions that selects where the answer puts the key. Its
	// value is InMetadata. Without the member, the answer puts the key into the provider's header.
	CredentialExtension = "credential"
	// InMetadata puts the key into Envoy's dynamic metadata. The member's name is SecretPrefix and the provider's slug,
	// so a filter that is configured for another provider finds no key.
	InMetadata = "metadata"
	// SecretPrefix begins the name of the metadata's member that holds the key.
	SecretPrefix = "secret_for_"

	forwardedProto = "x-forwarded-proto"
)

// Server implements Authorization. It is safe for concurrent use.
type Server struct {
	authv3.UnimplementedAuthorizationServer

	authorizer *gateway.Authorizer
	log        *slog.Logger
}

// New returns a Server that finds keys with resolver. It uses the configuration's Log, Metrics, FailedAuthLimit, Guard
// and TrustedProxies.
func New(resolver gateway.Resolver, cfg gateway.Config) (*Server, error) {
	cfg.Resolver = resolver
	authorizer, err := gateway.NewAuthorizer("ext_authz", cfg)
	if err != nil {
		return nil, err
	}
	return &Server{authorizer: authorizer, log: cmp.Or(cfg.Log, slog.Default())}, nil
}

// Check implements authv3.AuthorizationServer. It returns a refusal as a response and not as an error: for an error,
// Envoy would send its own text.
func (s *Server) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	attributes := request.GetAttributes()
	asked := attributes.GetRequest().GetHttp()
	path, rawQuery, _ := strings.Cut(asked.GetPath(), "?")
	client := attributes.GetSource().GetAddress().GetSocketAddress().GetAddress()
	provider, credential := attributes.GetContextExtensions()[ProviderExtension], attributes.GetContextExtensions()[CredentialExtension]
	if credential != "" && credential != InMetadata {
		provider = "" // the route is not configured for any
	}
	grant, problem := s.authorizer.Authorize(ctx, client, gateway.Head{
		Provider: provider, Methods: []string{asked.GetMethod()}, Paths: []string{path}, RawQuery: rawQuery, Header: headerOf(asked),
	})
	if problem != nil {
		return denied(problem), nil
	}
	markAuthenticated(ctx)
	return allowed(grant, credential == InMetadata)
}

// headerOf returns the request's headers with canonical names. Envoy sends headers in one of two fields.
func headerOf(request *authv3.AttributeContext_HttpRequest) http.Header {
	header := make(http.Header, len(request.GetHeaders()))
	for name, value := range request.GetHeaders() {
		header.Set(name, value)
	}
	for _, field := range request.GetHeaderMap().GetHeaders() {
		value := field.GetValue()
		if value == "" {
			value = string(field.GetRawValue())
		}
		header.Add(field.GetKey(), value)
	}
	return header
}

// allowed returns the answer for a request that may pass.
func allowed(grant gateway.Grant, inMetadata bool) (*authv3.CheckResponse, error) {
	name, value := grant.Header()
	set := []*corev3.HeaderValueOption{overwrite(name, value)}
	members := map[string]any{"key_id": grant.KeyID, "provider": grant.Provider, "reason": grant.Reason}
	if inMetadata {
		name, set = "", nil
		members[SecretPrefix+grant.Provider] = grant.Secret()
	}
	if grant.Protocols != "" {
		set = append(set, overwrite("sec-websocket-protocol", grant.Protocols))
	}
	var remove []string
	for _, private := range append(grant.Private, gateway.CredentialHeaders()...) {
		lower := strings.ToLower(private)
		if inMetadata && lower == forwardedProto {
			continue // Envoy needs this header to match a route, also again after a later filter has read the model
		}
		if private != name && !slices.Contains(remove, lower) { // Envoy removes after it sets
			remove = append(remove, lower)
		}
	}
	ok := &authv3.OkHttpResponse{
		Headers:         set,
		HeadersToRemove: remove,

		QueryParametersToRemove: grant.Parameters, // Envoy compares names as they were sent
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			overwrite(gateway.HeaderKeyID, grant.KeyID), overwrite(gateway.HeaderReason, grant.Reason),
		},
	}
	metadata, err := structpb.NewStruct(members)
	return &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata,
	}, err
}

// denied returns the answer for a refused request.
func denied(problem *gateway.Problem) *authv3.CheckResponse {
	answer := &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(problem.Status)}, //nolint:gosec // a status of our own table
		Body:   string(problem.Body()),
	}
	for name, values := range problem.Header() {
		answer.Headers = append(answer.Headers, overwrite(name, values[0]))
	}
	code := cmp.Or(grpcCodes[problem.Status], codes.Internal)
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: int32(code), Message: problem.Error.Code}, //nolint:gosec // codes are small
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: answer},
	}
}

// overwrite returns the option that replaces every value of a header.
func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: strings.ToLower(name), Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// grpcCodes are the gRPC codes for the statuses of problems. The others are Internal.
var grpcCodes = map[int]codes.Code{
	http.StatusBadRequest:         codes.InvalidArgument,
	http.StatusUnauthorized:       codes.Unauthenticated,
	http.StatusForbidden:          codes.PermissionDenied,
	http.StatusNotFound:           codes.NotFound,
	http.StatusTooManyRequests:    codes.ResourceExhausted,
	http.StatusNotImplemented:     codes.Unimplemented,
	http.StatusServiceUnavailable: codes.Unavailable,
}

// ServeConfig are the settings of Serve; the zero value is plain text.
type ServeConfig struct {
	// TLS is the server's configuration, with ClientAuth if Envoy must show a certificate; nil is plain text.
	TLS *tls.Config
	// Drain bounds how long checks may run after the end of the context; 10 seconds if zero.
	Drain time.Duration
	// MaxConnections bounds the number of open connections; if zero, it is a third of the files that the process may
	// open. At the bound, a new connection replaces an open connection that has shown no client certificate and has had
	// no check granted.
	MaxConnections int
}

// connectionCredentials are transport credentials that put the connection into the AuthInfo, where the handlers find
// it.
type connectionCredentials struct {
	credentials.TransportCredentials
}

type connectionInfo struct {
	credentials.AuthInfo

	conn net.Conn
}

// ServerHandshake implements credentials.TransportCredentials.
func (c connectionCredentials) ServerHandshake(accepted net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(accepted)
	if err != nil {
		return nil, nil, err
	}
	if secure, ok := info.(credentials.TLSInfo); ok && len(secure.State.VerifiedChains) > 0 {
		lifecycle.MarkConnectionAuthenticated(accepted)
	}
	return conn, connectionInfo{info, accepted}, nil
}

// markAuthenticated marks the connection of a check that was granted, so that no new connection replaces it.
func markAuthenticated(ctx context.Context) {
	if from, ok := peer.FromContext(ctx); ok {
		if info, ok := from.AuthInfo.(connectionInfo); ok {
			lifecycle.MarkConnectionAuthenticated(info.conn)
		}
	}
}

// Serve answers checks and the standard health service on the listener until ctx ends. Then the health service reports
// that the server is not serving, and Serve returns when the checks in flight are answered. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, server *Server, cfg ServeConfig) error {
	transport := insecure.NewCredentials()
	if cfg.TLS != nil {
		transport = credentials.NewTLS(cfg.TLS)
	}
	maximum := cmp.Or(cfg.MaxConnections, lifecycle.FileShare(fileShare, maxConnections))
	listener = lifecycle.Bound(listener, lifecycle.Connections{Max: maximum}, server.log)
	rpc := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.UnaryInterceptor(server.recoverPanic), grpc.Creds(connectionCredentials{transport}),
	)
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
	cut := time.AfterFunc(cmp.Or(cfg.Drain, defaultDrain), rpc.Stop)
	defer cut.Stop()
	rpc.GracefulStop()
	if err := <-failed; !errors.Is(err, grpc.ErrServerStopped) { // the error if the server was stopped before Serve began
		return err
	}
	return nil
}

// recoverPanic answers a panic with a refusal. It drops the value of the panic, which may hold a secret.
func (s *Server) recoverPanic(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (response any, err error) {
	started := time.Now()
	defer func() {
		if recover() != nil {
			response, err = denied(s.authorizer.Refuse(ctx, started, "none", errPanic)), nil
		}
	}()
	return next(ctx, request)
}
