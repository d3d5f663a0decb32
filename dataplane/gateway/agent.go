package gateway

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

const (
	// agentPath is the path at which programs ask for a key.
	agentPath = "/v1/key"
	// maxQuestion bounds a question, in bytes. The longest part of a question is a session token.
	maxQuestion = 32 << 10
	// questionTimeout bounds the time for the rest of a question, and for the program to take the answer.
	questionTimeout = 5 * time.Second
)

// errQuestion: the question does not follow the agent's contract.
var errQuestion = errors.New("not a question to the agent")

// question is what a program asks about a request that it is about to send.
type question struct {
	Provider   string `json:"provider"`
	Credential string `json:"credential"` // the caller's
	ProjectID  string `json:"project_id"`
	Method     string `json:"method"`
	Path       string `json:"path"` // below the provider, perhaps with a query
	Model      string `json:"model"`
	ClientIP   string `json:"client_ip"`
}

// head returns the head of the request that the question is about.
func (q *question) head() Head {
	path, query, _ := strings.Cut(q.Path, "?")
	head := Head{
		Provider: q.Provider, Methods: []string{q.Method}, Paths: []string{path}, queries: []string{query}, Model: q.Model,
		Header: http.Header{},
	}
	for name, value := range map[string]string{HeaderProject: q.ProjectID, "X-Forwarded-For": q.ClientIP} {
		if value != "" {
			head.Header[name] = []string{value}
		}
	}
	if q.Credential != "" {
		head.Header[headerAuthorization] = []string{"Bearer " + q.Credential}
	}
	return head
}

// keyAnswer says how to send the request that a question was about.
type keyAnswer struct {
	KeyID    string     `json:"key_id"`
	Provider string     `json:"provider"`
	Reason   string     `json:"reason"`
	BaseURL  string     `json:"base_url"`
	URL      string     `json:"url"`
	Secret   string     `json:"secret"`
	Inject   []injected `json:"inject"`
	// ExpiresInMS is how long the answer may be used, counted from when the program asked.
	ExpiresInMS int64 `json:"expires_in_ms"`
}

type injected struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type agent struct {
	authorizer *Authorizer
	lease      func() time.Duration
}

// NewAgent returns the handler that tells programs on this machine which key serves a request, and how to send the
// request. A program asks by a POST of JSON to /v1/key: docs/agent.openapi.yaml has the contract. lease returns how
// long the resolver's answers may be used.
//
// The handler's answers carry providers' keys in plain text: serve it on a unix socket, to the operator's own programs.
func NewAgent(cfg Config, lease func() time.Duration) (http.Handler, error) {
	authorizer, err := NewAuthorizer("agent", cfg)
	if err != nil {
		return nil, err
	}
	authorizer.upstreams = cfg.Upstreams
	return &agent{authorizer, lease}, nil
}

// ServeHTTP implements http.Handler.
func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	controller := http.NewResponseController(w)
	_ = controller.SetReadDeadline(started.Add(questionTimeout)) // both fail if the connection is gone
	_ = controller.SetWriteDeadline(started.Add(2 * questionTimeout))
	var asked question
	err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxQuestion), &asked, json.RejectUnknownMembers(true))
	if err != nil || r.Method != http.MethodPost || r.URL.Path != agentPath || asked.Provider == "" || asked.Path == "" {
		a.authorizer.Refuse(r.Context(), started, noProvider, errQuestion).Write(w)
		return
	}
	expires := a.lease() // read before the key is resolved: the answer must not promise more
	grant, problem := a.authorizer.Authorize(r.Context(), r.RemoteAddr, asked.head())
	if problem != nil {
		problem.Dialect = "" // the program reads it, not the provider's SDK
		problem.Write(w)
		return
	}
	lifecycle.MarkAuthenticated(r.Context())
	name, value := grant.Header()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.MarshalWrite(w, keyAnswer{ // the program may be gone
		KeyID: grant.KeyID, Provider: grant.Provider, Reason: grant.Reason, BaseURL: grant.BaseURL.String(), URL: grant.URL.String(),
		Secret: grant.Secret(), Inject: []injected{{name, value}}, ExpiresInMS: max(0, expires-time.Since(started)).Milliseconds(),
	})
}
