// Package extauthz answers Envoy's external authorization filter over gRPC (envoy.service.auth.v3.Authorization), so
// that Envoy itself proxies the requests: it is told which header to set and which to remove.
//
// The provider comes from the route's own configuration, context_extensions: {provider: openai}, and never from the
// request. Envoy decides where a request goes, so the operator has to route it to that provider's hosts and nowhere
// else.
//
// Envoy does not tell what the provider answered: failures of keys are not reported from here. Answers carry providers'
// keys in plain text, so serve it where callers can't reach it.
//
// It may import dataplane, dataplane/gateway and nothing else of ours.
package extauthz

import (
	"context"
	"net/http"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/agentrouter/aikeys/dataplane/gateway"
)

// ProviderExtension is the member of a route's context_extensions that names the provider.
const ProviderExtension = "provider"

// Server implements Authorization. It is safe for concurrent use.
type Server struct {
	authv3.UnimplementedAuthorizationServer

	authorizer *gateway.Authorizer
}

// New returns a Server that finds keys with resolver. Of the configuration it uses Log, Metrics,
// FailedAuthLimit and TrustedProxies.
func New(resolver gateway.Resolver, cfg gateway.Config) (*Server, error) {
	cfg.Resolver = resolver
	authorizer, err := gateway.NewAuthorizer("ext_authz", cfg)
	if err != nil {
		return nil, err
	}
	return &Server{authorizer: authorizer}, nil
}

// Check implements authv3.AuthorizationServer. A refusal is an answer too: an error would make Envoy answer by itself.
func (s *Server) Check(ctx context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	attributes := request.GetAttributes()
	provider := attributes.GetContextExtensions()[ProviderExtension]
	header := headerOf(attributes.GetRequest().GetHttp())
	_, rawQuery, _ := strings.Cut(attributes.GetRequest().GetHttp().GetPath(), "?")
	peer := attributes.GetSource().GetAddress().GetSocketAddress().GetAddress()
	grant, problem := s.authorizer.Authorize(ctx, peer, provider, header, rawQuery)
	if problem != nil {
		return denied(problem), nil
	}
	return allowed(grant, header)
}

// headerOf returns the request's headers in Go's spelling, in whichever of its two ways Envoy sends them.
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

func allowed(grant gateway.Grant, header http.Header) (*authv3.CheckResponse, error) {
	name, value := grant.Header()
	var remove []string
	for _, credential := range gateway.CredentialHeaders() {
		if credential != name { // Envoy removes after it sets
			remove = append(remove, strings.ToLower(credential))
		}
	}
	for sent := range header {
		if lower := strings.ToLower(sent); strings.HasPrefix(lower, "agentrouter-") || lower == "cookie" {
			remove = append(remove, lower)
		}
	}
	ok := &authv3.OkHttpResponse{
		Headers:         []*corev3.HeaderValueOption{overwrite(name, value)},
		HeadersToRemove: remove,

		QueryParametersToRemove: grant.Parameters(), // Envoy compares names as they were sent
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			overwrite(gateway.HeaderKeyID, grant.KeyID), overwrite(gateway.HeaderReason, grant.Reason),
		},
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"key_id": grant.KeyID, "provider": grant.Provider, "reason": grant.Reason,
	})
	return &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata,
	}, err
}

func denied(problem *gateway.Problem) *authv3.CheckResponse {
	answer := &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(problem.Status)}, //nolint:gosec // a status of our own table
		Body:   string(problem.Body()),
	}
	for name, values := range problem.Header() {
		answer.Headers = append(answer.Headers, overwrite(name, values[0]))
	}
	code := codeOf(problem.Status)
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: int32(code), Message: problem.Error.Code}, //nolint:gosec // codes are small
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: answer},
	}
}

func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: strings.ToLower(name), Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func codeOf(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case http.StatusNotImplemented:
		return codes.Unimplemented
	case http.StatusServiceUnavailable:
		return codes.Unavailable
	}
	return codes.Internal
}

// recovered answers a panic of Check's with a refusal; what was panicked with may hold a secret, and is dropped.
func (s *Server) recovered(ctx context.Context, started time.Time, thrown any) *authv3.CheckResponse {
	if thrown == nil {
		return nil
	}
	return denied(s.authorizer.Refuse(ctx, started, "none", errPanic))
}
