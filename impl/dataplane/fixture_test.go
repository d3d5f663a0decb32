package dataplane_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/internal/problem"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// Short names for what most tests use.
const (
	acme   = aikeystest.Customer
	globex = aikeystest.OtherCustomer
	web    = aikeystest.Project
	ops    = aikeystest.OtherProject
	owner  = aikeystest.Owner
	member = aikeystest.Member
	other  = aikeystest.OtherMember
	sam    = aikeystest.Stranger
)

// ownersView is the owner, as the store knows them.
var ownersView = models.Caller{CustomerID: acme, ProjectID: web, UserID: owner}

func ptr[T any](v T) *T { return &v }

func decode[T any](t testing.TB, text []byte) T {
	t.Helper()
	var value T
	require.NoError(t, json.Unmarshal(text, &value))
	return value
}

// marked returns new text that is found wherever it gets to.
func (s *service) marked() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return s.hide(hex.EncodeToString(b[:]))
}

// held is a registered key and the secret that it holds.
type held struct {
	pub.Key
	secret string
}

// register registers a key for a provider that takes tokens, in the default project of user.
func (s *service) register(user, provider string, own bool) held {
	s.t.Helper()
	secret := s.marked()
	return held{s.registerAs(s.public.As(user), pub.RegisterRequest{
		Provider: provider, Name: secret[:8], Secret: gensecret.New(secret), UserScope: &own,
	}), secret}
}

func (s *service) registerAs(as *aikeystest.Session, body pub.RegisterRequest) pub.Key {
	s.t.Helper()
	reply, err := as.RegisterKeyWithResponse(context.Background(), aikeystest.Self, aikeystest.Self, nil, body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusCreated, reply.StatusCode(), "%s", reply.Body)
	return reply.JSON201.Key
}

// shared and own register a key of the project's, and one of a user's.
func (s *service) shared(provider string) held    { return s.register(owner, provider, false) }
func (s *service) own(user, provider string) held { return s.register(user, provider, true) }

// credential returns the API key of a user's session.
func (s *service) credential(user string) string { return s.hide(s.public.As(user).Token) }

func (s *service) policy(body pub.PolicyRequest) { s.policyOf(s.public.As(owner), body) }

func (s *service) policyOf(as *aikeystest.Session, body pub.PolicyRequest) {
	s.t.Helper()
	reply, err := as.SetPolicyWithResponse(context.Background(), aikeystest.Self, aikeystest.Self, body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
}

func forKey(id string) gen.FetchRequest { return gen.FetchRequest{KeyID: &id} }

func forCaller(token, provider string) gen.FetchRequest { return forCallerIn(token, "", provider) }

func forCallerIn(token, project, provider string) gen.FetchRequest {
	r := gen.FetchRequest{Credential: ptr(gensecret.New(token)), Provider: &provider}
	if project != "" {
		r.ProjectID = &project
	}
	return r
}

// forUser asks for a user of acme's project, or for none with an empty one.
func forUser(project, user, provider string) gen.FetchRequest {
	r := gen.FetchRequest{CustomerID: ptr(acme), ProjectID: &project, Provider: &provider}
	if user != "" {
		r.UserID = &user
	}
	return r
}

func fetch(t testing.TB, dp *dataPlane, body gen.FetchRequest) *gen.FetchKeyResult {
	t.Helper()
	reply, err := dp.FetchKeyWithResponse(t.Context(), body)
	require.NoError(t, err)
	return reply
}

// requireKey asserts that a fetch is answered with a key, for a reason.
func requireKey(t testing.TB, reply *gen.FetchKeyResult, key held, reason string) gen.FetchResponse {
	t.Helper()
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	got := *reply.JSON200
	require.Equal(t, key.ID, got.KeyID)
	require.Equal(t, key.secret, got.Secret.Reveal())
	require.Equal(t, reason, got.Reason)
	scope := "project"
	if key.UserScope {
		scope = "user"
	}
	require.Equal(t, scope, got.Scope)
	return got
}

// answer is any reply of the generated client.
type answer interface {
	StatusCode() int
	GetBody() []byte
}

// requireRefused asserts that a request is answered with a status and a type of problem.
func requireRefused(t testing.TB, reply answer, status int, slug string) problem.Document {
	t.Helper()
	require.Equal(t, status, reply.StatusCode(), "%s", reply.GetBody())
	doc := decode[problem.Document](t, reply.GetBody())
	require.Equal(t, "/problems/"+slug, doc.Type)
	return doc
}

// records returns a project's fetches, newest first.
func (s *service) records(customer, project string) []models.FetchRecord {
	s.t.Helper()
	page, err := s.store.ListFetches(context.Background(), customer, project, 0, 100)
	require.NoError(s.t, err)
	return page
}

func (s *service) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	done, err := feedtest.Open(t, s.dbURL).ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
	changed, err := done.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, 1, changed)
}

// report says how one key fares: used or refused by its provider, some time ago.
func report(t testing.TB, dp *dataPlane, id string, bad bool, ago time.Duration) {
	t.Helper()
	r, ms := gen.KeyReport{KeyID: id}, int(ago.Milliseconds())
	if bad {
		r.FailedMsAgo, r.FailureStatus = &ms, ptr(http.StatusUnauthorized)
	} else {
		r.UsedMsAgo = &ms
	}
	reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: []gen.KeyReport{r}})
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, reply.StatusCode(), "%s", reply.Body)
}
