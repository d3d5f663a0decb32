package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	genaikeys "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/models"
)

// mock makes "aikeysd dev" a mock: the service itself, with example data, for any credential, and with the document's
// examples as answers on request. It keeps no rules of its own, so it can't disagree with the service.
type mock struct {
	session atomic.Pointer[devSession] // nil until the project is there
	index   []byte
}

func newMock() (*mock, error) {
	index, err := mockIndex()
	return &mock{index: index}, err
}

// mockSessions opens a session for every bearer token: the owner's, or the member's if the token is their name. A real API key
// opens its own session, and none once it is revoked or has expired.
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
