package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/stretchr/testify/require"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway/gatewaytest"
)

// A caller's API key, and the provider key that replaces it.
const (
	callerKey   = "ak_caller_0001"
	providerKey = "sk-provider-0001"
	keyID       = "byok_0001"
)

// credentialHeaders are those in which clients and providers carry keys.
func credentialHeaders() []string {
	return []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key"}
}

// authority answers like a gateway, from a table, to test how the sample configurations handle every answer of a gateway. It is
// both a forward-auth endpoint and an ext_authz service.
type authority struct {
	authv3.UnimplementedAuthorizationServer
}

// decide returns the header to inject, or the status of a refusal.
func (authority) decide(provider, credential string) (name, value string, status int) {
	switch strings.TrimPrefix(credential, "Bearer ") {
	case callerKey:
	case "denied":
		return "", "", http.StatusForbidden
	case "absent":
		return "", "", http.StatusNotFound
	case "unavailable":
		return "", "", http.StatusServiceUnavailable
	default:
		return "", "", http.StatusUnauthorized
	}
	if provider == "anthropic" {
		return "X-Api-Key", providerKey, http.StatusOK
	}
	return "Authorization", "Bearer " + providerKey, http.StatusOK
}

func (a authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var credential string
	for _, name := range credentialHeaders() {
		if credential == "" {
			credential = r.Header.Get(name)
		}
	}
	provider, ok := strings.CutPrefix(r.URL.Path, "/auth/")
	name, value, status := a.decide(provider, credential)
	if body, err := io.ReadAll(r.Body); !ok || err != nil || len(body) > 0 {
		status = http.StatusBadRequest // no sample sends such a request
	}
	if status == http.StatusOK {
		w.Header().Set(name, value)
		w.Header().Set("Agentrouter-Key-Id", keyID)
	}
	w.WriteHeader(status)
}

func (a authority) Check(_ context.Context, request *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	var credential string
	for _, name := range credentialHeaders() {
		if credential == "" {
			credential = request.GetAttributes().GetRequest().GetHttp().GetHeaders()[strings.ToLower(name)]
		}
	}
	provider := request.GetAttributes().GetContextExtensions()["provider"]
	name, value, status := a.decide(provider, credential)
	if status != http.StatusOK {
		return &authv3.CheckResponse{
			Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status: &typev3.HttpStatus{Code: typev3.StatusCode(status)},
				Body:   `{"error": {"message": "refused"}}`,
				Headers: []*corev3.HeaderValueOption{
					{Header: &corev3.HeaderValue{Key: "Content-Type", Value: "application/json"}},
				},
			}},
		}, nil
	}
	ok := &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
	for _, other := range credentialHeaders() {
		if other != name {
			ok.HeadersToRemove = append(ok.HeadersToRemove, other)
		}
	}
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok},
	}, nil
}

// startForwardAuth and startExtAuthz serve the authority, and return its address. It ends with the test.
func startForwardAuth(t *testing.T) (address string) {
	t.Helper()
	server := httptest.NewServer(authority{})
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func startExtAuthz(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, authority{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		require.NoError(t, <-served)
	})
	return listener.Addr().String()
}

// sampleProxy is a proxy that has a sample configuration, and what it asks: the authority, or the gateway at an address.
type sampleProxy struct {
	address      func(gateway *served) string
	startGateway func(t *testing.T) (address string)
	start        func(t *testing.T, config string) (url string)
	sample       func(t *testing.T, gateway string, provider *gatewaytest.Provider) (config string)
}

// before starts the proxy, and the authority that it asks, before a provider.
func (s sampleProxy) before(t *testing.T, provider *gatewaytest.Provider) (url string) {
	t.Helper()
	return s.start(t, s.sample(t, s.startGateway(t), provider))
}

// eachSample runs a test on each proxy whose sample configuration can run on this machine.
func eachSample(t *testing.T, test func(t *testing.T, proxy sampleProxy)) {
	t.Helper()
	forwardAuth := func(gateway *served) string { return strings.TrimPrefix(gateway.forwardAuth, "http://") }
	extAuthz := func(gateway *served) string { return gateway.extAuthz }
	t.Run("nginx", func(t *testing.T) { test(t, sampleProxy{forwardAuth, startForwardAuth, startNginx, nginxSample}) })
	t.Run("Envoy", func(t *testing.T) { test(t, sampleProxy{extAuthz, startExtAuthz, startEnvoy, envoySample}) })
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request for a completion.
func ask(t *testing.T, url string, body io.Reader, headers ...string) answer {
	t.Helper()
	got, err := tryAsk(t.Context(), url, body, headers...)
	require.NoError(t, err)
	return got
}

func tryAsk(ctx context.Context, url string, body io.Reader, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(text)}, err
}

func question() io.Reader {
	return strings.NewReader(`{"model": "m", "max_tokens": 9, "messages": []}`)
}

// startPeerGateway starts the gateway with a control plane that has the provider's keys for the caller.
func startPeerGateway(t *testing.T, provider *gatewaytest.Provider) *served {
	t.Helper()
	control := dataplanetest.NewControlPlane(t)
	control.AddCredential(callerKey, dataplanetest.Credential{})
	for _, key := range []dataplanetest.Key{
		{Provider: "openai", BaseURL: provider.URL + "/v1", AuthStyle: "bearer"},
		{Provider: "anthropic", BaseURL: provider.URL, AuthStyle: "x_api_key"},
	} {
		key.Secret = providerKey
		control.RegisterKey(key)
	}
	return startGateway(t, environOf(t, control.URL()),
		"--forward-auth-listen", "127.0.0.1:0", "--ext-authz-listen", "127.0.0.1:0").awaitReady()
}

// requireSDK checks that an SDK works with the gateway's base URL and key, that its streams are not buffered, and that it
// reports an invalid key as such.
func requireSDK(t *testing.T, script, url string, provider *gatewaytest.Provider, release chan struct{}) {
	t.Helper()
	provider.Forget()
	result := runPeerInStep(t, release, script, sdkEnviron(script, url, callerKey)...)
	require.Nil(t, result.Error)
	require.Equal(t, "Hello from the fake provider.", result.Text)
	require.Equal(t, result.Text, result.StreamedText)
	require.Equal(t, 6, result.Chunks)
	require.Len(t, provider.Requests(), 2)
	provider.RequireNeverSaw(t, callerKey)

	result = runPeer(t, script, sdkEnviron(script, url, "ak_revoked_0001")...)
	require.NotNil(t, result.Error)
	require.Equal(t, http.StatusUnauthorized, result.Error.Status)
	require.Equal(t, "AuthenticationError", result.Error.Class)
	require.Len(t, provider.Requests(), 2, "what is refused does not reach the provider")
}

func TestProviderSDKsThroughTheGateway(t *testing.T) {
	t.Parallel()
	for _, script := range sdkScripts() {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{}, 1024)
			provider := gatewaytest.StartProvider(t, gatewaytest.ReleasedBy(release), gatewaytest.Accepting(providerKey))
			requireSDK(t, script, startPeerGateway(t, provider).url, provider, release)
		})
	}
}

func TestProviderSDKsThroughSampleProxies(t *testing.T) {
	t.Parallel()
	eachSample(t, func(t *testing.T, proxy sampleProxy) {
		release := make(chan struct{}, 1024)
		provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS(), gatewaytest.ReleasedBy(release),
			gatewaytest.Accepting(providerKey))
		gateway := startPeerGateway(t, provider)
		url := proxy.start(t, proxy.sample(t, proxy.address(gateway), provider))
		for _, script := range []string{"openai_client.mjs", "anthropic_client.mjs"} { // Python takes seconds to start
			t.Run(script, func(t *testing.T) { requireSDK(t, script, url, provider, release) })
		}
	})
}

func TestSampleProxiesReplaceTheCredential(t *testing.T) {
	t.Parallel()
	eachSample(t, func(t *testing.T, proxy sampleProxy) {
		provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS(), gatewaytest.Accepting(providerKey))
		url := proxy.before(t, provider)
		for path, injected := range map[string]string{
			"/openai/chat/completions": "Authorization", "/anthropic/v1/messages": "X-Api-Key",
		} {
			for _, carrier := range credentialHeaders() {
				provider.Forget()
				headers := []string{"Cookie", "session=" + callerKey, "X-Forwarded-For", "192.0.2.1"}
				for _, name := range credentialHeaders() {
					headers = append(headers, name, "")
				}
				value := callerKey
				if carrier == "Authorization" {
					value = "Bearer " + callerKey
				}
				require.Equal(t, http.StatusOK, ask(t, url+path, question(), append(headers, carrier, value)...).status)
				seen := provider.Requests()
				require.Len(t, seen, 1)
				provider.RequireNeverSaw(t, callerKey)
				require.Equal(t, certifiedName, seen[0].Host)
				require.Empty(t, seen[0].Header.Values("X-Forwarded-For"))
				for _, name := range credentialHeaders() {
					if name == injected {
						require.Len(t, seen[0].Header.Values(name), 1)
					} else {
						require.Empty(t, strings.Join(seen[0].Header.Values(name), ""), name)
					}
				}
			}
		}
	})
}

// Envoy removes parameters by their literal names. However a caller encodes the name, the key must not reach the provider.
func TestEnvoyRemovesCredentialsFromTheQuery(t *testing.T) {
	t.Parallel()
	provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS(), gatewaytest.Accepting(providerKey))
	control := dataplanetest.NewControlPlane(t)
	control.AddCredential(callerKey, dataplanetest.Credential{})
	control.RegisterKey(dataplanetest.Key{Provider: "gemini", BaseURL: provider.URL, AuthStyle: "x_goog_api_key", Secret: providerKey})
	gateway := startGateway(t, environOf(t, control.URL()), "--ext-authz-listen", "127.0.0.1:0").awaitReady()
	url := startEnvoy(t, replaced(t, envoySample(t, gateway.extAuthz, provider),
		"{prefix: /anthropic/}", "{prefix: /gemini/}", "{provider: anthropic}", "{provider: gemini}"))
	for _, query := range []string{
		"alt=sse&key=" + callerKey, "key=" + callerKey + "&alt=sse", "%6bey=" + callerKey + "&alt=sse", "alt=sse&k%65y=" + callerKey + "&key=" + callerKey,
		"%6B%65%79=" + callerKey + "&alt=sse&trace=" + callerKey, "key=" + callerKey + "&alt=sse&%6bey",
	} {
		provider.Forget()
		got := ask(t, url+"/gemini/v1beta/models/m:generateContent?"+query, question())
		seen := provider.Requests()
		require.Len(t, seen, 1, "%s: %d %s", query, got.status, got.body)
		require.Equal(t, "alt=sse", seen[0].RawQuery, query)
		require.Equal(t, providerKey, seen[0].Header.Get("X-Goog-Api-Key"))
		provider.RequireNeverSaw(t, callerKey)
	}
}

func TestSampleProxiesForwardRefusals(t *testing.T) {
	t.Parallel()
	eachSample(t, func(t *testing.T, proxy sampleProxy) {
		provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS())
		url := proxy.before(t, provider)
		refused := func(t *testing.T, url, credential string, status int) {
			t.Helper()
			got := ask(t, url+"/openai/chat/completions", question(), "Authorization", "Bearer "+credential)
			require.Equal(t, status, got.status, got.body)
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
			require.Contains(t, got.body, `{"error": {`)
			require.Empty(t, provider.Requests())
		}
		refused(t, url, "ak_wrong_0001", http.StatusUnauthorized)
		refused(t, url, "denied", http.StatusForbidden)
		refused(t, url, "absent", http.StatusNotFound)
		refused(t, url, "unavailable", http.StatusServiceUnavailable)
		t.Run("nobody passes without a gateway", func(t *testing.T) {
			url := proxy.start(t, proxy.sample(t, freeAddress(t), provider))
			got := ask(t, url+"/openai/chat/completions", question(), "Authorization", "Bearer "+callerKey)
			require.Equal(t, http.StatusServiceUnavailable, got.status)
			require.Empty(t, provider.Requests())
		})
		t.Run("other paths lead nowhere", func(t *testing.T) {
			for _, path := range []string{"/", "/auth/openai", "/_aikeys/openai", "/openai", "/openai/../auth/openai"} {
				got := ask(t, url+path, question(), "Authorization", "Bearer "+callerKey)
				require.Equal(t, http.StatusNotFound, got.status, path)
				require.NotContains(t, got.header, "Agentrouter-Key-Id")
				require.NotContains(t, got.header, "Authorization")
			}
		})
	})
}

func TestSampleProxiesForwardProviderErrors(t *testing.T) {
	t.Parallel()
	eachSample(t, func(t *testing.T, proxy sampleProxy) {
		provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS())
		url := proxy.before(t, provider)
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError} {
			provider.Reject(providerKey, status)
			got := ask(t, url+"/anthropic/v1/messages", question(), "X-Api-Key", callerKey)
			require.Equal(t, status, got.status)
			require.Contains(t, got.body, "req_fake", "it is the provider's")
		}
	})
}

func TestSampleProxiesDoNotBufferRequests(t *testing.T) {
	t.Parallel()
	eachSample(t, func(t *testing.T, proxy sampleProxy) {
		provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS(), gatewaytest.Accepting(providerKey))
		url := proxy.before(t, provider)
		body, write := io.Pipe()
		var got answer
		failed := make(chan error, 1)
		go func() {
			var err error
			got, err = tryAsk(t.Context(), url+"/openai/chat/completions", body, "Authorization", "Bearer "+callerKey)
			failed <- err
		}()
		defer func() { _ = write.Close() }() // ends the request, if the test has failed
		_, err := io.WriteString(write, `{"model": `)
		require.NoError(t, err)
		provider.Await(t, 1) // while the body has just begun
		_, err = io.WriteString(write, `"m"}`)
		require.NoError(t, err)
		require.NoError(t, write.Close())
		require.NoError(t, <-failed)
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.JSONEq(t, `{"model": "m"}`, string(provider.Requests()[0].Body))
	})
}

func TestSampleProxiesSendNoCredentialToAnImpostor(t *testing.T) {
	t.Parallel()
	eachSample(t, func(t *testing.T, proxy sampleProxy) {
		provider := gatewaytest.StartProvider(t, gatewaytest.WithTLS(), gatewaytest.Accepting(providerKey))
		config := proxy.sample(t, proxy.startGateway(t), provider)
		url := proxy.start(t, replaced(t, config, certifiedName, "example.net"))
		got := ask(t, url+"/openai/chat/completions", question(), "Authorization", "Bearer "+callerKey)
		require.GreaterOrEqual(t, got.status, http.StatusBadGateway)
		require.Empty(t, provider.Requests())
	})
}
