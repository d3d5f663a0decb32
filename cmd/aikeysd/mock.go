package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	genaikeys "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/models"
)

// mock makes "aikeysd dev" a mock. A mock is the service itself with example data. It accepts any credential. If a
// request asks for an example, it answers with an example from the OpenAPI document. It has no rules of its own, so it
// can't disagree with the service.
type mock struct {
	session atomic.Pointer[devSession] // nil until the project is there
	index   []byte
}

func newMock() (*mock, error) {
	index, err := mockIndex()
	return &mock{index: index}, err
}

// mockSessions opens a session for every bearer token: the owner's session, or the member's if the token is the
// member's name. A real API key opens its own session, until it is revoked or expires.
type mockSessions struct {
	auth.Sessions
	store *models.Store
	mock  *mock
}

// Authenticate implements auth.Sessions.
func (m mockSessions) Authenticate(ctx context.Context, authorization string) (auth.Principal, error) {
	principal, err := m.Sessions.Authenticate(ctx, authorization)
	session := m.mock.session.Load()
	scheme, token, _ := strings.Cut(authorization, " ")
	if !errors.Is(err, auth.ErrUnauthenticated) || session == nil || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return principal, err
	}
	if id, _, parseErr := auth.ParseAPIKey(token); parseErr == nil {
		if _, findErr := m.store.FindToken(ctx, id); !errors.Is(findErr, models.ErrNotFound) {
			return principal, err
		}
	}
	key := session.ownerKey
	if token == devMember {
		key = session.memberKey
	}
	return m.Sessions.Authenticate(ctx, "Bearer "+key)
}

// serveIndex serves the list of examples at /, and everything else with next.
func (m *mock) serveIndex(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" || r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_, _ = w.Write(m.index) // a caller that has left reads nothing
	})
}

// mockOperation is a row of the index.
type mockOperation struct {
	Method, Path, Summary string
	Examples              []httpapi.Example
}

// mockIndex returns the page that lists the document's operations and their examples.
func mockIndex() ([]byte, error) {
	document, err := genaikeys.GetSpec()
	if err != nil {
		return nil, err
	}
	var rows []mockOperation
	for path, item := range document.Paths.Map() {
		for method, operation := range item.Operations() {
			examples, err := httpapi.ExamplesOf(operation)
			if err != nil {
				return nil, err
			}
			rows = append(rows, mockOperation{method, path, operation.Summary, examples})
		}
	}
	slices.SortFunc(rows, func(a, b mockOperation) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	var page bytes.Buffer
	err = mockPage.Execute(&page, map[string]any{"Operations": rows, "Owner": devOwner, "Member": devMember})
	return page.Bytes(), err
}

var mockPage = template.Must(template.New("mock").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Mock of AgentRouter AI Keys</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}td,th{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0}code{font-size:.9em;overflow-wrap:anywhere}</style>
<main>
<h1>Mock of AgentRouter AI Keys</h1>
<p>This is the service, with example data. Any bearer token acts as {{.Owner}}, an owner; the token <code>{{.Member}}</code> acts as {{.Member}}, a member.
What you change stays changed.</p>
<p>To get a certain answer to a valid request, send the header <code>Prefer: code=404</code>, <code>Prefer: example=failing</code> or both; nothing is
changed then. <a href="/openapi.yaml">openapi.yaml</a> is the document, <a href="/docs">/docs</a> its reference, and
<a href="/console">/console</a> the console.</p>
<table>
<thead><tr><th scope="col">Operation<th scope="col">Examples</thead>
<tbody>
{{range .Operations}}<tr><td><code>{{.Method}} {{.Path}}</code><br>{{.Summary}}<td>{{range .Examples}}<code>{{.Status}}{{with .Name}}&nbsp;{{.}}{{end}}</code> {{end}}
{{end}}</tbody>
</table>
</main>
</html>
`))

// mockEmptyProject is a second project. It has the same owner and no keys.
const mockEmptyProject = "empty"

// mockRequest is one of the requests that create the example data.
type mockRequest struct {
	as           string // the user, or devDataPlane
	method, path string // KEY in the path or body is the key that was registered last
	body         string
	status       int
}

// mockData returns the requests that create a key in each state through the API, the newest key last. The names of
// these keys differ from the names that the document's samples register.
func mockData() []mockRequest {
	const keys = "/v1/aikeys"
	register := func(as, body string) mockRequest {
		return mockRequest{as: as, method: http.MethodPost, path: keys, body: body, status: http.StatusCreated}
	}
	change := func(method, path, body string) mockRequest {
		return mockRequest{as: devOwner, method: method, path: path, body: body, status: http.StatusOK}
	}
	return []mockRequest{
		change(http.MethodPut, "/v1/customers/-/projects/-/members/carol", `{"role": "member"}`),
		register(devOwner, `{"provider": "openai", "name": "openai-old", "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock01"}`),
		change(http.MethodDelete, keys+"/KEY?wait=5s", ""),
		register(devOwner, `{"provider": "anthropic", "name": "anthropic-failing", "secret": "sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-mock02"}`),
		{as: devDataPlane, method: http.MethodPost, path: "/v1/reports",
			body:   `{"keys": [{"key_id": "KEY", "failed_ms_ago": 0, "failure_status": 401, "failure_reason": "rejected"}]}`,
			status: http.StatusNoContent},
		register(devOwner, `{"provider": "mistral", "name": "mistral-disabled", "secret": "EXAMPLEEXAMPLEEXAMPLEEXAMPLEmock"}`),
		change(http.MethodPatch, keys+"/KEY", `{"disabled": true}`),
		register(devOwner, `{"provider": "groq", "name": "groq-limited", "secret": "gsk_EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEmock04"}`),
		change(http.MethodPatch, keys+"/KEY", `{"limit": {"requests_per_minute": 60}}`),
		register(devMember, `{"provider": "openai", "name": "openai-bob", "user_scope": true, "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock05"}`),
		register(devOwner, `{"provider": "openai", "name": "openai-own", "user_scope": true, "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock06"}`),
		register(devOwner, `{"provider": "openai", "name": "openai-main", "secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock07"}`),
		change(http.MethodPost, keys+"/KEY/rotate", `{"secret": "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-mock08", "activate": "now", "overlap": "168h"}`),
		{as: devMember, method: http.MethodDelete, path: keys + "/KEY", status: http.StatusForbidden},
	}
}

// seedMock creates the example data, unless the project already has keys from the last start. Keys in every state
// count.
func (s *service) seedMock(ctx context.Context, session devSession, tokenFile string) error {
	who := models.Caller{CustomerID: devCustomer, ProjectID: mockEmptyProject, UserID: devOwner}
	if err := s.store.Transact(ctx, func(tx *models.Tx) error { return setMember(tx, newOperator(s.getenv), who, models.RoleOwner) }); err != nil {
		return err
	}
	dataPlane, err := secretfile.Read(tokenFile)
	if err != nil {
		return err
	}
	seed := mockSeed{
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: mockTimeout},
		url:    map[string]string{devOwner: session.baseURL, devMember: session.baseURL, devDataPlane: s.dataplane.URL()},
		token:  map[string]string{devOwner: session.ownerKey, devMember: session.memberKey, devDataPlane: strings.TrimSpace(string(dataPlane))},
	}
	reply, err := seed.send(ctx, mockRequest{as: devOwner, method: http.MethodGet, path: "/v1/aikeys?page_size=1", status: http.StatusOK})
	if err != nil || len(reply.Keys) > 0 {
		return err
	}
	for _, request := range mockData() {
		if reply, err = seed.send(ctx, request); err != nil {
			return err
		}
		if request.status == http.StatusCreated {
			seed.key = reply.Key.ID
		}
	}
	return nil
}

// mockSeed sends the requests that make the example data.
type mockSeed struct {
	url, token map[string]string // by user
	key        string            // the id of the key that was registered last
	client     *http.Client
}

type mockReply struct {
	Key  mockKey   `json:"key"`
	Keys []mockKey `json:"keys"`
}

type mockKey struct {
	ID string `json:"id"`
}

// mockTimeout bounds each request of mockSeed.
const mockTimeout = 10 * time.Second

func (s mockSeed) send(ctx context.Context, request mockRequest) (reply mockReply, err error) {
	fill := func(text string) string { return strings.ReplaceAll(text, "KEY", s.key) }
	r, err := http.NewRequestWithContext(ctx, request.method, s.url[request.as]+fill(request.path), bytes.NewBufferString(fill(request.body)))
	if err != nil {
		return reply, err
	}
	r.Header.Set("Authorization", "Bearer "+s.token[request.as])
	if request.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return reply, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != request.status {
		return reply, fmt.Errorf("example data: %s %s answers %s", request.method, path.Clean(request.path), answer.Status)
	}
	if answer.StatusCode >= http.StatusOK && answer.StatusCode < http.StatusNoContent {
		err = json.NewDecoder(answer.Body).Decode(&reply)
	}
	return reply, err
}
