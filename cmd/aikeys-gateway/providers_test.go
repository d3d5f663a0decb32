package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// Events of streams, of which two make a stream.
var (
	openAIChunk    = "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n"
	anthropicChunk = "event: content_block_delta\ndata: " + cloudEvents[2] + "\n\n"
	googleChunk    = "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"Hel\"}]}}]}\r\n\r\n"
	cohereChunk    = "event: content-delta\ndata: {\"type\":\"content-delta\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"text\":\"Hel\"}}}}\n\n"
	bedrockChunk   = string(awsEvent("chunk", []byte(`{"bytes":"e30="}`)))
)

// answers are the whole answers of the APIs that SDKs are tried with, by the event of their streams.
var answers = map[string]string{
	openAIChunk: openAIAnswer, anthropicChunk: anthropicAnswer,
	cohereChunk: `{"id":"c1","finish_reason":"COMPLETE","message":{"role":"assistant","content":[{"type":"text","text":"Hello"}]}}`,
}

// documented is an API of a provider's as its documentation has it: the path at a gateway and at the provider's host, the header that
// takes the key and what the value begins with, an event of its streams, and what it answers to a key that it does not take.
type documented struct {
	provider, path, at string
	header, prefix     string
	chunk              string
	status             int
	refusal            string
}

// documentedAPIs has every API of the catalogue's providers that the gateway's page names.
var documentedAPIs = []documented{
	{"openai", "/v1/chat/completions", "/v1/chat/completions", "Authorization", "Bearer sk-", openAIChunk,
		401, `{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
	{"openai", "/v1/responses", "/v1/responses", "Authorization", "Bearer sk-", openAIChunk,
		429, `{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`},
	{"anthropic", "/v1/messages", "/v1/messages", "X-Api-Key", "sk-ant-", anthropicChunk,
		401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`},
	{"gemini", "/v1beta/models/m:streamGenerateContent?alt=sse", "/v1beta/models/m:streamGenerateContent", "X-Goog-Api-Key", "AQ.", googleChunk,
		400, `{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}`},
	{"gemini", "/v1beta/openai/chat/completions", "/v1beta/openai/chat/completions", "Authorization", "Bearer AQ.", openAIChunk,
		400, `[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]`},
	{"groq", "/openai/v1/chat/completions", "/openai/v1/chat/completions", "Authorization", "Bearer gsk_", openAIChunk,
		401, `{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}`},
	{"xai", "/v1/chat/completions", "/v1/chat/completions", "Authorization", "Bearer xai-", openAIChunk,
		400, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided."}`},
	{"xai", "/v1/messages", "/v1/messages", "Authorization", "Bearer xai-", anthropicChunk,
		400, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided."}`},
	{"deepinfra", "/v1/openai/chat/completions", "/v1/openai/chat/completions", "Authorization", "Bearer EXAMPLE", openAIChunk,
		401, `{"detail":{"error":"User not authenticated"}}`},
	{"deepinfra", "/v1/inference/m", "/v1/inference/m", "Authorization", "Bearer EXAMPLE", "data: {\"token\":{\"text\":\"Hel\"}}\n\n",
		401, `{"detail":{"error":"User not authenticated"}}`},
	{"mistral", "/v1/chat/completions", "/v1/chat/completions", "Authorization", "Bearer EXAMPLE", openAIChunk,
		401, `{"detail":"Unauthorized"}`},
	{"cohere", "/v2/chat", "/v2/chat", "Authorization", "Bearer EXAMPLE", cohereChunk, 401, `{"message":"invalid api token"}`},
	{"cohere", "/v1/chat", "/v1/chat", "Authorization", "Bearer EXAMPLE", "{\"event_type\":\"text-generation\",\"text\":\"Hel\"}\n",
		401, `{"message":"invalid api token"}`},
	{"cohere", "/compatibility/v1/chat/completions", "/compatibility/v1/chat/completions", "Authorization", "Bearer EXAMPLE", openAIChunk,
		401, `{"message":"invalid api token"}`},
	{"together", "/v1/chat/completions", "/v1/chat/completions", "Authorization", "Bearer tgp_v1_", openAIChunk,
		401, `{"error":{"message":"Invalid API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
	{"fireworks", "/inference/v1/chat/completions", "/inference/v1/chat/completions", "Authorization", "Bearer fw_", openAIChunk,
		401, `{"error":{"object":"error","type":"invalid_request_error","code":"unauthorized","message":"The API key you provided is invalid."}}`},
	{"fireworks", "/inference/v1/messages", "/inference/v1/messages", "Authorization", "Bearer fw_", anthropicChunk,
		412, `{"error":{"message":"Account acme is suspended","code":"PRECONDITION_FAILED"}}`},
	{"deepseek", "/chat/completions", "/chat/completions", "Authorization", "Bearer sk-", openAIChunk,
		402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}`},
	{"deepseek", "/anthropic/v1/messages", "/anthropic/v1/messages", "Authorization", "Bearer sk-", anthropicChunk,
		401, `{"error":{"message":"Authentication Fails","type":"authentication_error","code":"invalid_request_error"}}`},
	{"perplexity", "/chat/completions", "/chat/completions", "Authorization", "Bearer pplx-", openAIChunk,
		401, `{"error":{"message":"Invalid API key provided.","type":"invalid_api_key","code":401}}`},
	{"openrouter", "/api/v1/chat/completions", "/api/v1/chat/completions", "Authorization", "Bearer sk-or-", openAIChunk,
		401, `{"error":{"message":"No auth credentials found","code":401}}`},
	{"openrouter", "/api/v1/messages", "/api/v1/messages", "Authorization", "Bearer sk-or-", anthropicChunk,
		402, `{"type":"error","error":{"type":"billing_error","message":"Insufficient credits"}}`},
	{"azure_openai", "/openai/v1/chat/completions", "/openai/v1/chat/completions", "Api-Key", "EXAMPLE", openAIChunk,
		401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}`},
	{"azure_openai", "/anthropic/v1/messages", "/anthropic/v1/messages", "X-Api-Key", "EXAMPLE", anthropicChunk,
		401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}`},
	{"bedrock", "/model/m/invoke-with-response-stream", "/model/m/invoke-with-response-stream", "Authorization", "Bearer bedrock-api-key-", bedrockChunk,
		403, `{"Message":"Authentication failed: Please make sure your API Key is valid."}`},
	{"vertex", "/v1/projects/p/locations/europe-west1/publishers/google/models/m:streamGenerateContent?alt=sse",
		"/v1/projects/p/locations/europe-west1/publishers/google/models/m:streamGenerateContent", "Authorization", "Bearer eyJ", googleChunk,
		401, `{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}`},
	{"vertexanthropic", "/v1/projects/p/locations/global/publishers/anthropic/models/m:streamRawPredict",
		"/v1/projects/p/locations/global/publishers/anthropic/models/m:streamRawPredict", "Authorization", "Bearer eyJ", anthropicChunk,
		401, `{"error":{"code":401,"message":"Request had invalid authentication credentials.","status":"UNAUTHENTICATED"}}`},
}

// unrelated is what providers answer with 403 to a request whose model, region or network is at fault.
var unrelated = map[string]string{
	"openai":       `{"error":{"message":"Project p does not have access to model m","code":"model_not_found"}}`,
	"anthropic":    `{"error":{"type":"forbidden","message":"Request not allowed"}}`,
	"groq":         `{"error":{"message":"The model m is blocked.","code":"model_permission_blocked_org"}}`,
	"openrouter":   `{"error":{"message":"m requires moderation","code":403,"metadata":{"flagged_input":"x"}}}`,
	"azure_openai": `{"error":{"code":"403","message":"Access denied due to Virtual Network/Firewall rules."}}`,
	"bedrock":      `{"message":"You don't have access to the model with the specified model ID."}`,
}

// double behaves as the documented APIs: to a request with the one credential that the API takes it streams two events, the second once the
// first has arrived, or sends a whole answer, if no stream is asked for. It answers a request that has the word "refuse" in its body as it would a key that it does not take, and one
// with the word "forbid" as it would a model that the key has no access to.
func double(t *testing.T, provider string, arrived <-chan struct{}) *url.URL {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a request that ends early is answered as another one
		var api documented
		for _, each := range documentedAPIs {
			if each.provider == provider && each.at == r.URL.Path {
				api = each
			}
		}
		given := 0
		for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key"} {
			given += len(r.Header.Values(name))
		}
		switch {
		case api.provider == "" || given != 1 || !strings.HasPrefix(r.Header.Get(api.header), api.prefix):
			http.Error(w, fmt.Sprint("undocumented: ", r.URL.Path, " with ", given, " credentials"), http.StatusTeapot)
		case strings.Contains(string(body), "refuse"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(api.status)
			_, _ = io.WriteString(w, api.refusal)
		case strings.Contains(string(body), "forbid"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, cmp.Or(unrelated[provider], `{"error":{"message":"No access to the model."}}`))
		case !asksForStream(body):
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answers[api.chunk])
		default:
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, api.chunk)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-arrived:
				_, _ = io.WriteString(w, api.chunk)
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	require.NoError(t, err)
	return base
}

// exampleSecrets returns a key of the right shape for each provider of the catalogue, and its base URL's path.
func exampleSecrets(t *testing.T) (secrets, paths map[string]string) {
	t.Helper()
	text, err := os.ReadFile("../../spec/providers.yaml")
	require.NoError(t, err)
	var catalogue struct {
		Providers []struct {
			Slug, Example string
			BaseURL       string `yaml:"base_url"`
			Format        string `yaml:"secret_format"`
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &catalogue))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	robot, err := json.Marshal(map[string]string{"type": "service_account", "project_id": "p", "client_email": "robot@p.iam.gserviceaccount.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	require.NoError(t, err)
	secrets, paths = map[string]string{}, map[string]string{}
	for _, p := range catalogue.Providers {
		secrets[p.Slug] = p.Example
		if strings.HasPrefix(p.Slug, "vertex") {
			secrets[p.Slug] = string(robot)
		}
		_, rest, _ := strings.Cut(p.BaseURL, "://")
		if _, path, has := strings.Cut(rest, "/"); has {
			paths[p.Slug] = "/" + path
		} else {
			paths[p.Slug] = ""
		}
	}
	return secrets, paths
}

// Every API of every provider of the catalogue gets its key as it is documented, streams without a delay, and has its own refusals.
func TestEveryProviderOfTheCatalogueIsServed(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	replica := c.start()
	secrets, paths := exampleSecrets(t)
	arrived, upstreams := map[string]chan struct{}{}, []string{}
	for provider, secret := range secrets {
		body, err := json.Marshal(map[string]string{"provider": provider, "name": provider, "secret": secret})
		require.NoError(t, err)
		c.call(replica, http.MethodPost, "", string(body))
		arrived[provider] = make(chan struct{}, 2)
		upstreams = append(upstreams, "--upstream", provider+"="+double(t, provider, arrived[provider]).String()+paths[provider])
	}
	edge := c.run("admin dataplane create --customer acme --name edge")
	gateway := startProcess(t, os.Args[0], gatewayEnviron(t, replica.address.Dataplane, edge), upstreams...).awaitReady()
	for _, api := range documentedAPIs {
		delete(secrets, api.provider)
		t.Run(api.provider+" "+api.at, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gateway.address.Gateway+"/"+api.provider+api.path, strings.NewReader(`{"model":"m","stream":true}`))
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer "+c.alice)
			request.Header.Set("Content-Type", "application/json")
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			stream := bufio.NewReader(response.Body)
			first := make([]byte, len(api.chunk))
			n, err := io.ReadFull(stream, first)
			require.NoError(t, err, "%d %s", response.StatusCode, first[:n])
			require.Equal(t, api.chunk, string(first))
			arrived[api.provider] <- struct{}{}
			rest, err := io.ReadAll(stream)
			require.NoError(t, err)
			require.Equal(t, api.chunk, string(rest))

			refused := send(http.MethodPost, request.URL.String(), c.alice, `{"model":"refuse"}`, "Content-Type", "application/json")
			require.Equal(t, api.status, refused.status)
			require.Equal(t, api.refusal, refused.body)
		})
	}
	require.Empty(t, secrets, "providers of the catalogue without an API here")
	c.checkVendorSDKs(gateway, arrived)
	c.checkFailures(replica, gateway)
	for _, call := range []string{"/openai/v1/realtime/calls", "/openai/realtime/calls/c1/accept", "/azure_openai/openai/v1/realtime/calls"} {
		refused := send(http.MethodPost, gateway.address.Gateway+call, c.alice, "v=0", "Content-Type", "application/sdp")
		require.Equal(t, http.StatusForbidden, refused.status, "%s goes on beside the gateway", call)
		require.Contains(t, refused.body, "calls that a revocation does not end")
	}
}

// checkVendorSDKs has the SDKs that the providers' documentation names ask for a whole answer and for a streamed one, and then with an API key
// that the gateway refuses.
func (c *controlPlane) checkVendorSDKs(gateway *process, arrived map[string]chan struct{}) {
	c.t.Helper()
	const refusal = "The AgentRouter API key or session token that came with this request is not valid"
	want := map[string][]string{}
	for client, provider := range map[string]string{
		"cohere": "cohere", "groq": "groq", "mistralai": "mistral", "together": "together",
		"openai deepinfra": "deepinfra", "openai deepseek": "deepseek", "openai fireworks": "fireworks", "openai openrouter": "openrouter",
		"openai perplexity": "perplexity", "openai xai": "xai",
		"anthropic deepseek": "deepseek", "anthropic fireworks": "fireworks", "anthropic openrouter": "openrouter", "anthropic xai": "xai",
	} {
		arrived[provider] <- struct{}{}
		want[client] = []string{"Hello", "HelHel", refusal}
	}
	folder, err := filepath.Abs("../../tools/peers")
	require.NoError(c.t, err)
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(folder, ".venv", "bin", "python"), "-B", filepath.Join(folder, "vendor_clients.py"))
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.t.TempDir(), "LC_ALL=C.UTF-8",
		"GATEWAY_URL=" + gateway.address.Gateway, "AGENTROUTER_API_KEY=" + c.alice,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	printed, err := cmd.Output()
	require.NoError(c.t, err, "`make test` installs the SDKs: %s", &stderr)
	var got map[string][]string
	require.NoError(c.t, json.Unmarshal(printed, &got))
	for client, texts := range got {
		if len(texts) == 3 && strings.Contains(texts[2], refusal) {
			got[client][2] = refusal
		}
	}
	require.Equal(c.t, want, got)
}

// checkFailures has each API of the doubles refuse its key, and then requests of two users for what no key is at fault for, and checks which of
// these become the keys' failures.
func (c *controlPlane) checkFailures(replica, gateway *process) {
	c.t.Helper()
	ask := func(api documented, token, model string, status int) {
		c.t.Helper()
		got := send(http.MethodPost, gateway.address.Gateway+"/"+api.provider+api.path, token, `{"model":"`+model+`"}`, "Content-Type", "application/json")
		require.Equal(c.t, status, got.status, got.body)
	}
	failures := func() map[string]pub.KeyFailure {
		var page struct{ Keys []pub.Key }
		got := send(http.MethodGet, replica.address.API+"/v1/aikeys?page_size=100", c.alice, "")
		require.NoError(c.t, json.Unmarshal([]byte(got.body), &page), got.body)
		failures := map[string]pub.KeyFailure{}
		for _, k := range page.Keys {
			if k.LastFailure != nil {
				failures[k.Provider] = *k.LastFailure
			}
		}
		return failures
	}
	// refuse has keys refused, and returns all failures once those are among them.
	refuse := func(apis ...documented) (now map[string]pub.KeyFailure) {
		c.t.Helper()
		before := failures()
		for _, api := range apis {
			ask(api, c.alice, "refuse", api.status)
		}
		require.Eventually(c.t, func() bool {
			now = failures()
			return !slices.ContainsFunc(apis, func(api documented) bool { return !now[api.provider].At.After(before[api.provider].At) })
		}, 30*time.Second, 20*time.Millisecond, "refusals are reported")
		for _, api := range apis {
			reason := "rejected"
			if slices.Contains([]int{http.StatusPaymentRequired, http.StatusPreconditionFailed, http.StatusTooManyRequests}, api.status) {
				reason = "quota_exhausted"
			}
			require.Equal(c.t, []any{api.status, reason}, []any{now[api.provider].Status, *now[api.provider].Reason}, api.provider+api.at)
		}
		return now
	}
	for left := documentedAPIs; len(left) > 0; { // a key's APIs one after another
		var round, later []documented
		for _, api := range left {
			if slices.ContainsFunc(round, func(r documented) bool { return r.provider == api.provider }) {
				later = append(later, api)
			} else {
				round = append(round, api)
			}
		}
		refuse(round...)
		left = later
	}
	before := failures()
	c.run("admin member set --customer acme --project chat --user bob --role member")
	bob := c.run("admin token create --customer acme --project chat --user bob")
	last := documentedAPIs[len(documentedAPIs)-1] // the only API of its provider
	for _, api := range documentedAPIs[:len(documentedAPIs)-1] {
		ask(api, c.alice, "forbid", http.StatusForbidden)
		if unrelated[api.provider] != "" { // what two users get without a rule for it is the key's failure
			ask(api, bob, "forbid", http.StatusForbidden)
		}
	}
	after := refuse(last) // reports are sent in order, so what there was to report has come
	delete(before, last.provider)
	delete(after, last.provider)
	require.Equal(c.t, before, after, "a model, a region or a network is no key's failure")
}

// With CUSTOM_PROVIDERS=off, owners add no servers, those that are there take no keys, and keys that they have are given to no gateway.
func TestCustomProvidersAreSwitchedOff(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t, modelstest.EngineSQLite.URL(t))
	edge := c.run("admin dataplane create --customer acme --name edge")
	c.run("admin provider create --customer acme --slug x-ours --base-url http://127.0.0.1:9/v1")
	for _, setting := range []string{"owner", "off"} {
		want := []int{http.StatusForbidden, http.StatusBadRequest, http.StatusNotFound}
		if setting == "owner" {
			want = []int{http.StatusCreated, http.StatusCreated, http.StatusForbidden} // the last is the gateway's: it may not connect there
		}
		replica := c.start("AIKEYS_CUSTOM_PROVIDERS=" + setting)
		gateway := startProcess(t, os.Args[0], gatewayEnviron(t, replica.address.Dataplane, edge)).awaitReady()
		got := []int{}
		for _, call := range [][2]string{
			{replica.address.API + "/v1/customers/-/projects/-/providers", `{"slug":"x-theirs","base_url":"https://llm.example/v1"}`},
			{replica.address.API + "/v1/aikeys", `{"provider":"x-ours","name":"ours","secret":"EXAMPLE-EXAMPLE-EXAMPLE-0001"}`},
			{gateway.address.Gateway + "/x-ours/chat/completions", `{"model":"m"}`},
		} {
			got = append(got, send(http.MethodPost, call[0], c.alice, call[1], "Content-Type", "application/json").status)
		}
		require.Equal(t, want, got, setting)
	}
}
