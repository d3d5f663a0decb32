package dataplane_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
)

// Short names that most tests use.
const (
	acme   = aikeystest.Customer
	globex = aikeystest.OtherCustomer
	web    = aikeystest.Project
	ops    = aikeystest.OtherProject
	owner  = aikeystest.Owner
	member = aikeystest.Member
	other  = aikeystest.OtherMember
	sam    = aikeystest.Stranger
	absent = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ" // the id of no key
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "6") // most tests mainly wait
	modelstest.Main(m)
}

// service is the data planes' API and, over the same database, the public API. aikeystest checks the replies and the output
// of both.
type service struct {
	*aikeystest.Service
	public *aikeystest.Service
	t      testing.TB
	db     *sql.DB // bypasses the store
	feed   *feed.Feed
}

// contract is the document that every reply is checked against.
var contract = sync.OnceValue(func() *aikeystest.Contract {
	doc, err := gen.GetSpec()
	if err != nil {
		panic(err)
	}
	return aikeystest.NewContract(doc)
})

// change changes the settings of a service. The other settings are those of production.
type change = func(*aikeystest.Options, *dataplane.Config)

// each runs a test on every engine, with a service of its own.
func each(t *testing.T, test func(t *testing.T, s *service), changes ...change) {
	t.Helper()
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		test(t, start(t, e, changes...))
	})
}

// onSQLite starts a service for a test that does not depend on the engine.
func onSQLite(t *testing.T, changes ...change) *service {
	t.Helper()
	t.Parallel()
	return start(t, modelstest.EngineSQLite, changes...)
}

func start(t testing.TB, e modelstest.Engine, changes ...change) *service {
	t.Helper()
	url := e.MigratedURL(t)
	store := modelstest.OpenStore(t, url, models.Options{})
	catalogue, err := providers.Load()
	require.NoError(t, err)
	opts := aikeystest.Options{Store: store}
	cfg := dataplane.Config{
		Store: store, Sessions: auth.New(auth.Config{Tokens: store}), Providers: catalogue, MaxStale: 20 * time.Second, CustomProviders: true,
		API: httpapi.Config{Authenticate: auth.Middleware(auth.MiddlewareConfig{Sessions: auth.New(auth.Config{DataPlanes: store})})},
	}
	for _, change := range changes {
		change(&opts, &cfg)
	}
	s := &service{t: t, db: modelstest.Open(t, url), public: aikeystest.Start(t, opts)}
	s.feed, err = feed.New(feed.Config{Store: store, Log: s.public.Evidence.Logger()})
	require.NoError(t, err)
	s.Service = s.public.Also("dataplane", contract(), func(observer *httpapi.Observer) http.Handler {
		cfg.Sealer, cfg.Tests, cfg.Feed, cfg.API.Observer = s.public.Sealer, s.public.Tests, s.feed, observer
		handler, err := dataplane.NewHandler(cfg)
		require.NoError(t, err)
		return handler
	})
	return s
}

// revoke revokes a data plane, as the operator's command does.
func (s *service) revoke(dp *dataPlane) {
	s.t.Helper()
	require.NoError(s.t, s.Store.Transact(context.Background(), func(tx *models.Tx) error {
		_, err := tx.RevokeDataPlane(dp.Name, "")
		return err
	}))
}

// exec runs a statement that changes one row.
func (s *service) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	done, err := s.db.ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
	changed, err := done.RowsAffected()
	require.NoError(t, err)
	require.EqualValues(t, 1, changed)
}

// dataPlane is a data plane, and a generated client that uses its credential.
type dataPlane struct {
	*gen.ClientWithResponses
	models.DataPlane
	token string
}

// dataPlane stores a data plane that serves all customers, after the changes.
func (s *service) dataPlane(changes ...func(*models.DataPlane)) *dataPlane {
	s.t.Helper()
	token, id, hash, err := auth.MintDataPlane(time.Now())
	require.NoError(s.t, err)
	s.Evidence.Hide(token)
	row := models.DataPlane{ID: id, Name: "dp-" + id, Hash: hash}
	for _, change := range changes {
		change(&row)
	}
	client, err := gen.NewClientWithResponses(s.URL, gen.WithHTTPClient(s.HTTPClient()),
		gen.WithRequestEditorFn(func(_ context.Context, req *http.Request) error {
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
	require.NoError(s.t, err)
	return &dataPlane{client, feedtest.StoreDataPlane(s.t, s.Store, row), token}
}

// serving limits a data plane to customers, of which there may be none.
func serving(customers ...string) func(*models.DataPlane) {
	return func(d *models.DataPlane) { d.Customers = append([]string{}, customers...) }
}

// held is a registered key and its secret.
type held struct {
	pub.Key
	secret string
}

// register registers a key with a new secret in the session's project: the project's key, or the user's own.
func (s *service) register(as *aikeystest.Session, provider string, own bool) held {
	s.t.Helper()
	secret := s.Secret()
	return held{as.Register(s.t, pub.RegisterRequest{
		Provider: provider, Name: secret[:8], Secret: gensecret.New(secret), UserScope: &own,
	}), secret}
}

// shared registers a project key, own a user's own key.
func (s *service) shared(provider string) held {
	return s.register(s.public.As(owner), provider, false)
}
func (s *service) own(user, provider string) held {
	return s.register(s.public.As(user), provider, true)
}

// credential returns the API key of a user's session.
func (s *service) credential(user string) string { return s.public.As(user).Token }

func (s *service) setPolicy(body pub.PolicyRequest) {
	s.t.Helper()
	reply, err := s.public.As(owner).SetPolicyWithResponse(context.Background(), aikeystest.Self, aikeystest.Self, body)
	require.NoError(s.t, err)
	require.Equal(s.t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
}

func forKey(id string) gen.FetchRequest { return gen.FetchRequest{KeyID: &id} }

// forCaller returns a fetch of the key that serves a caller, in the project of their session or in another project.
func forCaller(token, provider string, project ...string) gen.FetchRequest {
	r := gen.FetchRequest{Credential: new(gensecret.New(token)), Provider: &provider}
	for _, p := range project {
		r.ProjectID = &p
	}
	return r
}

// forUser returns a fetch of a user's key in one of acme's projects; an empty user means the project's key.
func forUser(project, user, provider string) gen.FetchRequest {
	r := gen.FetchRequest{CustomerID: new(acme), ProjectID: &project, Provider: &provider}
	if user != "" {
		r.UserID = &user
	}
	return r
}

// fetch fetches a key for a data plane, which may say what it enforces.
func fetch(t testing.TB, dp *dataPlane, body gen.FetchRequest, enforces ...string) *gen.FetchKeyResult {
	t.Helper()
	params := &gen.FetchKeyParams{}
	for _, words := range enforces {
		params.AgentrouterEnforces = &words
	}
	reply, err := dp.FetchKeyWithResponse(t.Context(), params, body)
	require.NoError(t, err)
	return reply
}

// requireKey asserts that a fetch is answered with this key for this reason.
func requireKey(t testing.TB, reply *gen.FetchKeyResult, key held, reason string) gen.FetchResponse {
	t.Helper()
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	got := *reply.JSON200
	scope := map[bool]string{false: "project", true: "user"}[key.UserScope]
	require.Equal(t, []string{key.ID, key.secret, reason, scope}, []string{got.KeyID, got.Secret.Reveal(), got.Reason, got.Scope})
	return got
}

// send makes a request that the generated client would not make.
func (s *service) send(t testing.TB, token string, o operation) *gen.FetchKeyResult {
	t.Helper()
	request := aikeystest.Request{Method: o.method, Path: o.path, Token: token}
	if o.body != "" {
		request.Body = []byte(o.body)
	}
	got := s.Send(t, request)
	return &gen.FetchKeyResult{HTTPResponse: &http.Response{StatusCode: got.Status}, Body: got.Body}
}

var requireRefused = aikeystest.RequireRefused

// report reports that a provider accepted or refused a key some time ago.
func report(t testing.TB, dp *dataPlane, id string, bad bool, ago time.Duration) {
	t.Helper()
	r, ms := gen.KeyReport{KeyID: id}, int(ago.Milliseconds())
	if bad {
		r.FailedMsAgo, r.FailureStatus = &ms, new(http.StatusUnauthorized)
	} else {
		r.UsedMsAgo = &ms
	}
	reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: []gen.KeyReport{r}})
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, reply.StatusCode(), "%s", reply.Body)
}

type operation struct{ method, path, body string }

// operations holds a valid request for each operation of the document.
var operations = map[string]operation{
	"fetchKey":      {http.MethodPost, "/v1/fetch", `{"customer_id":"acme","project_id":"web","provider":"openai"}`},
	"reportKeys":    {http.MethodPost, "/v1/reports", `{"keys":[{"key_id":"` + absent + `","used_ms_ago":1}]}`},
	"reportUsage":   {http.MethodPost, "/v1/usage", `{"reporter_id":"01M83VVAHQQW2E4R6T8Y0A1S3D","batch":1,"counts":[{"key_id":"` + absent + `","requests":1,"refusals":0,"last_used_ms_ago":1}]}`},
	"streamEvents":  {http.MethodGet, "/v1/events", ""},
	"claimKeyTest":  {http.MethodPost, "/v1/claims", `{"test_id":"01M83VVAHQQW2E4R6T8Y0A1S3D"}`},
	"answerKeyTest": {http.MethodPost, "/v1/verdicts", `{"test_id":"01M83VVAHQQW2E4R6T8Y0A1S3D","verdict":"valid"}`},
	"acknowledge":   {http.MethodPost, "/v1/acknowledgements", `{"session_id":"01M83VVAHQQW2E4R6T8Y0A1S3D","position":"1:1:"}`},
}

func TestOperationsRequireDataPlaneCredential(t *testing.T) {
	for path, item := range contract().Doc.Paths.Map() {
		for method, op := range item.Operations() {
			require.Equal(t, operation{method, path, operations[op.OperationID].body}, operations[op.OperationID])
		}
	}
	s := onSQLite(t)
	unknown, _, _, err := auth.MintDataPlane(time.Now())
	require.NoError(t, err)
	s.Evidence.Hide(unknown)
	revoked := s.dataPlane()
	s.revoke(revoked)
	for name, token := range map[string]string{
		"none":       "",
		"garbage":    s.Secret(),
		"unknown":    unknown,
		"a user's":   s.credential(owner),
		"revoked":    revoked.token,
		"expired":    s.dataPlane(func(d *models.DataPlane) { d.ExpiresAt = time.Now().UnixMicro() - 1 }).token,
		"mistyped":   revoked.token[:len(revoked.token)-1] + "-",
		"with dashs": "dp-" + s.dataPlane().token,
	} {
		for operation, o := range operations {
			t.Run(operation+" with "+name, func(t *testing.T) {
				got := s.send(t, token, o)
				requireRefused(t, got, http.StatusUnauthorized, "unauthenticated")
			})
		}
	}
	require.Empty(t, s.Fetches(acme, web), "an unauthenticated fetch leaves no record")
}

// Every operation that returns data checks the credential in its own statement, so a cached session does not help.
func TestRevokedDataPlaneIsRefusedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		s.follow(t, s.dataPlane(), gen.StreamEventsParams{})
		key := s.shared("openai")
		for name, request := range map[string]func(dp *dataPlane) *gen.FetchKeyResult{
			"fetch for a caller": func(dp *dataPlane) *gen.FetchKeyResult {
				return fetch(t, dp, forCaller(s.credential(member), "openai"))
			},
			"fetch for a user": func(dp *dataPlane) *gen.FetchKeyResult { return fetch(t, dp, forUser(web, member, "openai")) },
			"fetch by id":      func(dp *dataPlane) *gen.FetchKeyResult { return fetch(t, dp, forKey(key.ID)) },
			"report":           func(dp *dataPlane) *gen.FetchKeyResult { return s.send(t, dp.token, operations["reportKeys"]) },
			"stream": func(dp *dataPlane) *gen.FetchKeyResult {
				resp, err := dp.StreamEvents(t.Context(), nil)
				require.NoError(t, err)
				defer func() { _ = resp.Body.Close() }()
				got := &gen.FetchKeyResult{HTTPResponse: resp}
				if resp.StatusCode != http.StatusOK { // a stream would not end
					got.Body, err = io.ReadAll(resp.Body)
					require.NoError(t, err)
				}
				return got
			},
		} {
			t.Run(name, func(t *testing.T) {
				dp := s.dataPlane()
				require.Less(t, request(dp).StatusCode(), http.StatusBadRequest, "the session is cached")
				before := len(s.Fetches(acme, web))
				s.revoke(dp)
				for range 2 {
					requireRefused(t, request(dp), http.StatusUnauthorized, "unauthenticated")
				}
				require.Len(t, s.Fetches(acme, web), before)
			})
		}
	})
}

func TestOtherCustomersLookLikeNoneToADataPlane(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.shared("openai") // and so acme has a project
		foreign := s.public.Session(globex, web, owner)
		theirs := s.register(foreign, "openai", false)
		revoked := s.register(foreign, "groq", false)
		foreign.RevokeKey(t, revoked.ID)
		dp := s.dataPlane(serving(acme))
		// answer returns all of an answer but the request's id.
		answer := func(body gen.FetchRequest) string {
			reply := fetch(t, dp, body)
			doc := map[string]any{}
			require.NoError(t, json.Unmarshal(reply.Body, &doc))
			delete(doc, "request_id")
			delete(doc, "instance") // it contains the request's id, too
			return fmt.Sprint(reply.StatusCode(), doc)
		}
		unknown := answer(forKey(absent))
		require.Equal(t, unknown, answer(forKey(theirs.ID)))
		require.Equal(t, unknown, answer(forKey(revoked.ID)))
		require.Equal(t, answer(forCaller("ak_none", "openai")), answer(forCaller(foreign.Token, "openai")))
		require.Equal(t, answer(gen.FetchRequest{CustomerID: new("initech"), ProjectID: new(web), Provider: new("openai")}),
			answer(gen.FetchRequest{CustomerID: new(globex), ProjectID: new(web), Provider: new("openai")}))
	})
}

func TestDataPlaneServesOnlyItsCustomers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		ours := s.shared("openai")
		globexOwner := s.public.Session(globex, web, owner)
		theirs := s.register(globexOwner, "openai", false)
		token := globexOwner.Token
		forGlobex := gen.FetchRequest{CustomerID: new(globex), ProjectID: new(web), UserID: new(owner), Provider: new("openai")}
		ways := map[string]gen.FetchRequest{"for a caller": forCaller(token, "openai"), "for a user": forGlobex, "by id": forKey(theirs.ID)}
		for name, dp := range map[string]*dataPlane{"another": s.dataPlane(serving(acme)), "none": s.dataPlane(serving())} {
			for way, body := range ways {
				t.Run("for "+name+": "+way, func(t *testing.T) {
					want := map[string]struct {
						status int
						slug   string
					}{
						"for a caller": {http.StatusUnprocessableEntity, "caller-unauthenticated"},
						"for a user":   {http.StatusForbidden, "customer-not-served"},
						"by id":        {http.StatusNotFound, "not-found"},
					}[way]
					requireRefused(t, fetch(t, dp, body), want.status, want.slug)
				})
			}
		}
		for name, dp := range map[string]*dataPlane{"both": s.dataPlane(serving(acme, globex)), "all": s.dataPlane()} {
			for way, body := range ways {
				t.Run("for "+name+": "+way, func(t *testing.T) {
					require.Equal(t, theirs.secret, fetch(t, dp, body).JSON200.Secret.Reveal())
				})
			}
			require.Equal(t, ours.secret, fetch(t, dp, forKey(ours.ID)).JSON200.Secret.Reveal())
		}
	})
}

func TestFetchChecksMembership(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		s.shared("openai")
		mine := s.own(member, "openai")
		for user, want := range map[string]int{member: 200, other: 200, owner: 200, sam: 403, "nobody": 403} {
			require.Equal(t, want, fetch(t, dp, forUser(web, user, "openai")).StatusCode(), user)
		}
		require.Equal(t, mine.ID, fetch(t, dp, forUser(web, member, "openai")).JSON200.KeyID)
		require.NotEqual(t, mine.ID, fetch(t, dp, forUser(web, other, "openai")).JSON200.KeyID, "another's own key")
		requireRefused(t, fetch(t, dp, forUser("nowhere", member, "openai")), http.StatusForbidden, "permission-denied")
		requireRefused(t, fetch(t, dp, forUser("nowhere", "", "openai")), http.StatusNotFound, "no-key")
		requireRefused(t, fetch(t, dp, forKey(absent)), http.StatusNotFound, "not-found")
	})
}

func TestOperationsUntilReady(t *testing.T) {
	s := onSQLite(t, func(_ *aikeystest.Options, c *dataplane.Config) { c.API.Ready = func() bool { return false } })
	dp := s.dataPlane()
	for operation, o := range operations {
		t.Run(operation, func(t *testing.T) {
			requireRefused(t, s.send(t, dp.token, o), http.StatusServiceUnavailable, "unavailable")
		})
	}
}

func TestOperationsWithoutDatabase(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	require.Equal(t, http.StatusNotFound, fetch(t, dp, forUser(web, member, "openai")).StatusCode(), "the session is cached")
	require.NoError(t, s.Store.Close())
	for operation, o := range operations {
		t.Run(operation, func(t *testing.T) {
			requireRefused(t, s.send(t, dp.token, o), http.StatusServiceUnavailable, "unavailable")
		})
	}
}

// follow opens a stream once the feed has read from the database. The stream ends with the test, and its messages must
// match the document.
func (s *service) follow(t *testing.T, dp *dataPlane, params gen.StreamEventsParams) *feedtest.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := feedtest.NewClient(t, cancel)
	c.OnMessage = func(m feedtest.Message) {
		var document any
		err := json.Unmarshal(m.Data, &document)
		if err = errors.Join(err, contract().Doc.Components.Schemas["StreamMessage"].Value.VisitJSON(document)); err != nil {
			t.Errorf("%s: %v", m.Data, err)
		}
	}
	var resp *http.Response
	for resp == nil || resp.StatusCode == http.StatusServiceUnavailable {
		var err error
		resp, err = dp.StreamEvents(ctx, &params) //nolint:bodyclose // the goroutine below closes it
		require.NoError(t, err)
	}
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	go func() {
		_, err := io.Copy(c, resp.Body)
		_ = resp.Body.Close()
		c.End(err)
	}()
	t.Cleanup(c.Leave)
	return c
}

func TestStreamHasOnlyOwnCustomersChanges(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		key := s.shared("openai")
		theirs := s.register(s.public.Session(globex, web, owner), "openai", false)
		stream := s.follow(t, s.dataPlane(serving(acme)), gen.StreamEventsParams{MaxStaleMs: new(0)})
		stream.AwaitType("heartbeat")
		require.Equal(t, "hello", stream.All()[0].Type)
		s.public.Session(globex, web, owner).RevokeKey(t, theirs.ID)
		s.public.As(owner).RevokeKey(t, key.ID)
		told := stream.AwaitType("key.revoked")
		for _, m := range stream.All() {
			if m.CustomerID != nil {
				require.Equal(t, acme, *m.CustomerID, "and nothing of the other customer's")
			}
		}
		require.Equal(t, []string{web, "openai", key.ID}, []string{*told.ProjectID, *told.Provider, *told.KeyID})
		require.Positive(t, *told.Tx)
	})
}

func TestStreamResumes(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		stream.AwaitType("heartbeat")
		session, at := stream.Session(), stream.Last()
		stream.Leave()
		s.public.As(owner).RevokeKey(t, key.ID)
		resumed := s.follow(t, dp, gen.StreamEventsParams{LastEventID: &at, PreviousSessionID: &session})
		require.Equal(t, key.ID, *resumed.AwaitType("key.revoked").KeyID)
	})
}

// Only the data plane that has a stream can acknowledge for it.
func TestAcknowledgeCountsInReceipt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		session := stream.Session()
		s.public.As(owner).RevokeKey(t, key.ID)
		position := stream.AwaitRevocation(key.ID).ID
		acknowledge := func(dp *dataPlane, session string) *gen.AcknowledgeResult {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: session, Position: position, InFlight: []gen.InFlight{{KeyID: key.ID, Requests: 3}},
			})
			require.NoError(t, err)
			return reply
		}
		acknowledged := func() int {
			receipt, err := s.feed.Receipt(t.Context(), s.Row(key.ID).Stop())
			require.NoError(t, err)
			return receipt.Acknowledged
		}
		requireRefused(t, acknowledge(s.dataPlane(), session), http.StatusNotFound, "not-found")
		requireRefused(t, acknowledge(dp, "01M83VVAHQQW2E4R6T8Y0A1S3D"), http.StatusNotFound, "not-found")
		require.Zero(t, acknowledged())
		require.Equal(t, http.StatusNoContent, acknowledge(dp, session).StatusCode())
		require.Eventually(t, func() bool { return acknowledged() == 1 }, 10*time.Second, 5*time.Millisecond)
		receipt := s.public.As(owner).RevokeKey(t, key.ID)
		require.Equal(t, []*int{new(3), new(1)}, []*int{receipt.InFlight, receipt.InFlightFrom})
		require.Len(t, receipt.Acknowledgements, 1)
		require.Equal(t, []*int{new(3), new(1)}, []*int{receipt.Acknowledgements[0].InFlight, receipt.Acknowledgements[0].InFlightFrom})
	})
}

func TestInvalidNumbersOfRequestsInFlight(t *testing.T) {
	s := onSQLite(t)
	dp, key := s.dataPlane(), s.shared("openai")
	for name, counts := range map[string][]gen.InFlight{
		"negative": {{KeyID: key.ID, Requests: -1}}, "too many": {{KeyID: key.ID, Requests: 10_000_001}}, "no key": {{KeyID: "byok_x 5\n"}},
		"too many keys": slices.Repeat([]gen.InFlight{{KeyID: key.ID}}, 501),
	} {
		t.Run(name, func(t *testing.T) {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: "01M83VVAHQQW2E4R6T8Y0A1S3D", Position: "5:5:", InFlight: counts,
			})
			require.NoError(t, err)
			requireRefused(t, reply, http.StatusBadRequest, "invalid-argument")
		})
	}
}

func TestInvalidStreamParameters(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	for _, position := range []string{"5:4:", "1:9:9", "1:9:0", "9223372036854775808:9223372036854775808:", "1:2", "x", ""} {
		t.Run("position "+position, func(t *testing.T) {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: "01M83VVAHQQW2E4R6T8Y0A1S3D", Position: position,
			})
			require.NoError(t, err)
			doc := requireRefused(t, reply, http.StatusBadRequest, "invalid-argument")
			require.Equal(t, "position", doc.Errors[0].Field)
			resumed, err := dp.StreamEventsWithResponse(t.Context(), &gen.StreamEventsParams{LastEventID: &position})
			require.NoError(t, err)
			doc = requireRefused(t, resumed, http.StatusBadRequest, "invalid-argument")
			require.Equal(t, "Last-Event-ID", doc.Errors[0].Field)
		})
	}
	t.Run("and so is a parameter out of bounds", func(t *testing.T) {
		for query, field := range map[string]string{
			"max_stale_ms=3600001": "max_stale_ms", "max_stale_ms=-1": "max_stale_ms", "previous_session_id=x": "previous_session_id", "more=1": "query",
		} {
			doc := requireRefused(t, s.send(t, dp.token, operation{http.MethodGet, "/v1/events?" + query, ""}), http.StatusBadRequest, "invalid-argument")
			require.Equal(t, field, doc.Errors[0].Field)
		}
	})
}

// The operator bounds how long a receipt can be pending, whatever grace data planes declare.
func TestMaxStaleIsLimited(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	for query, message := range map[string]string{
		"max_stale_ms=20001": "must be at most 20000, the limit of this service", "max_stale_ms=3600001": "must be at most 3600000",
	} {
		doc := requireRefused(t, s.send(t, dp.token, operation{http.MethodGet, "/v1/events?" + query, ""}), http.StatusBadRequest, "invalid-argument")
		require.Len(t, doc.Errors, 1)
		require.Equal(t, "max_stale_ms", doc.Errors[0].Field)
		require.Equal(t, message, doc.Errors[0].Message)
	}
	requireRefused(t, s.send(t, dp.token, operation{http.MethodGet, "/v1/events?max_stale_ms=20000", ""}), http.StatusServiceUnavailable, "unavailable")
}

// Before the feed has read from the database, it can promise nothing.
func TestStreamUnavailableWithoutFeed(t *testing.T) {
	s := onSQLite(t)
	requireRefused(t, s.send(t, s.dataPlane().token, operation{http.MethodGet, "/v1/events", ""}), http.StatusServiceUnavailable, "unavailable")
}

// offer opens a stream on which a data plane offers to test keys.
func (s *service) offer(t *testing.T, dp *dataPlane) *feedtest.Client {
	t.Helper()
	stream := s.follow(t, dp, gen.StreamEventsParams{AgentrouterOffers: new("other, key_tests")})
	stream.AwaitType("heartbeat")
	return stream
}

// addTest stores a test of a key for data planes, as its owner's request does, and returns its id.
func (s *service) addTest(t *testing.T, key pub.Key, changes ...func(*models.KeyTest)) string {
	t.Helper()
	var ids models.IDs
	row := models.KeyTest{
		ID: ids.Next("", time.Now()), CustomerID: acme, ProjectID: web, UserID: owner, Provider: key.Provider, KeyID: key.ID, Version: 1,
		WaitUntil: time.Now().Add(time.Minute).UnixMicro(),
	}
	for _, change := range changes {
		change(&row)
	}
	require.NoError(t, s.Store.AddKeyTest(t.Context(), row))
	return row.ID
}

func claim(t *testing.T, dp *dataPlane, id string) *gen.ClaimKeyTestResult {
	t.Helper()
	reply, err := dp.ClaimKeyTestWithResponse(t.Context(), gen.ClaimRequest{TestID: id})
	require.NoError(t, err)
	return reply
}

func answer(t *testing.T, dp *dataPlane, a gen.KeyTestAnswer) *gen.AnswerKeyTestResult {
	t.Helper()
	reply, err := dp.AnswerKeyTestWithResponse(t.Context(), a)
	require.NoError(t, err)
	return reply
}

// headersOf returns the headers of a test's request.
func headersOf(got *gen.ClaimKeyTestResult) map[string]string {
	headers := map[string]string{}
	for _, h := range got.JSON200.Headers {
		headers[h.Name] = h.Value.Reveal()
	}
	return headers
}

// found returns the result of a test.
func (s *service) found(t *testing.T, id string) string {
	t.Helper()
	row, err := s.Store.FindKeyTest(t.Context(), id)
	require.NoError(t, err)
	return strings.TrimSpace(row.Verdict + " " + row.Reason)
}

func TestOneDataPlaneTestsAKey(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, another, theirs, old := s.dataPlane(serving(acme)), s.dataPlane(), s.dataPlane(serving(globex)), s.dataPlane()
		streams := []*feedtest.Client{s.offer(t, dp), s.offer(t, another), s.offer(t, theirs), s.follow(t, old, gen.StreamEventsParams{})}
		streams[3].AwaitType("heartbeat")
		key := s.shared("openai")
		id := s.addTest(t, key.Key)
		for _, told := range streams[:2] {
			require.Equal(t, id, *told.AwaitType("key_test").TestID)
		}
		for _, untold := range streams[2:] {
			for _, m := range untold.All() {
				require.NotEqual(t, "key_test", m.Type)
			}
		}
		valid := gen.KeyTestAnswer{TestID: id, Verdict: "valid", Reason: new("restricted"), Status: new(403)}
		for _, refused := range []aikeystest.Response{claim(t, theirs, id), claim(t, old, id), answer(t, dp, valid)} {
			requireRefused(t, refused, http.StatusNotFound, "not-found")
		}
		got := claim(t, dp, id)
		require.Equal(t, http.StatusOK, got.StatusCode(), "%s", got.Body)
		require.Equal(t, []string{"openai", "GET", "https://api.openai.com/v1/models", "https://api.openai.com/v1"},
			[]string{got.JSON200.Provider, got.JSON200.Method, got.JSON200.URL, got.JSON200.BaseURL})
		require.Equal(t, "Bearer "+key.secret, headersOf(got)["Authorization"])
		require.Empty(t, got.JSON200.MadeUpHeaders)
		require.False(t, got.JSON200.Signed)
		for _, refused := range []aikeystest.Response{claim(t, dp, id), claim(t, another, id), answer(t, another, valid)} {
			requireRefused(t, refused, http.StatusNotFound, "not-found")
		}
		require.Equal(t, http.StatusNoContent, answer(t, dp, valid).StatusCode())
		requireRefused(t, answer(t, dp, valid), http.StatusNotFound, "not-found")
		require.Equal(t, "valid restricted", s.found(t, id))
		record := s.Fetches(acme, web)[0]
		require.Equal(t, []any{dp.ID, "verification", models.OutcomeAllowed, owner, key.ID, uint32(1)},
			[]any{record.DataPlaneID, record.Reason, record.Decision, record.UserID, record.KeyID, record.Version})
		require.Len(t, s.Fetches(acme, web), 1)
	})
}

func TestSecretIsTestedBeforeItIsAKeys(t *testing.T) {
	s := onSQLite(t)
	feedtest.Run(t, s.feed.Run)
	dp := s.dataPlane()
	s.offer(t, dp)
	catalogue, err := providers.Load()
	require.NoError(t, err)
	add := func(provider, secret string) string {
		p, _ := catalogue.Lookup(provider)
		return s.addTest(t, pub.Key{Provider: provider}, func(row *models.KeyTest) {
			row.Version = 0
			sealed, err := s.public.Sealer.Seal(t.Context(), verification.SecretBinding(*row, p), sealer.NewSecret([]byte(secret)))
			require.NoError(t, err)
			row.Envelope = sealed.Bytes
		})
	}
	secret := s.Secret()
	got := claim(t, dp, add("anthropic", secret))
	require.Equal(t, http.StatusOK, got.StatusCode(), "%s", got.Body)
	require.Equal(t, []string{secret, "2023-06-01"}, []string{headersOf(got)["X-Api-Key"], headersOf(got)["Anthropic-Version"]})
	record := s.Fetches(acme, web)[0]
	require.Equal(t, []any{dp.ID, "verification", "anthropic", "", uint32(0)}, []any{record.DataPlaneID, record.Reason, record.Provider, record.KeyID, record.Version})

	// A provider whose clock differs refuses requests that are signed here.
	for _, tc := range []struct {
		ago  time.Duration
		want string
	}{{0, "rejected"}, {time.Hour, "unreachable clock"}, {-time.Hour, "unreachable clock"}} {
		id := add("bedrock", `{"access_key_id":"AKIAEXAMPLEEXAMPLE01","secret_access_key":"`+s.Secret()+`","region":"eu-west-1"}`)
		got := claim(t, dp, id)
		require.Equal(t, http.StatusOK, got.StatusCode(), "%s", got.Body)
		require.True(t, got.JSON200.Signed)
		date := time.Now().Add(-tc.ago).UTC().Format(http.TimeFormat)
		require.Equal(t, http.StatusNoContent, answer(t, dp, gen.KeyTestAnswer{TestID: id, Verdict: "rejected", Status: new(403), Date: &date}).StatusCode())
		require.Equal(t, tc.want, s.found(t, id))
	}

	moved := add("openai", s.Secret())
	s.exec(t, `UPDATE key_tests SET provider = 'mistral' WHERE id = '`+moved+`'`)
	require.Equal(t, http.StatusInternalServerError, claim(t, dp, moved).StatusCode(), "its envelope opens for its own provider alone")
	require.Equal(t, "unreachable unknown_answer", s.found(t, moved))
}

// Data planes get no key that has been stopped in the meantime, and no credential that only the control plane can
// exchange. The waiting request gets an answer.
func TestDataPlanesGetNoTestTheyCannotMake(t *testing.T) {
	s := onSQLite(t, func(o *aikeystest.Options, _ *dataplane.Config) {
		o.Tester = verification.New(verification.Config{Transport: tokenService(func(r *http.Request) *http.Response {
			body := io.NopCloser(strings.NewReader(`{"error": "invalid_client"}`))
			return &http.Response{StatusCode: http.StatusUnauthorized, Body: body, Request: r}
		})})
	})
	feedtest.Run(t, s.feed.Run)
	dp := s.dataPlane()
	s.offer(t, dp)
	revoked, rotated := s.shared("openai"), s.shared("openai")
	s.public.As(owner).RevokeKey(t, revoked.ID)
	exchanged := s.public.As(owner).Register(t, pub.RegisterRequest{Provider: "azure_openai", Name: "entra", Secret: gensecret.New(
		`{"endpoint":"https://r.services.ai.azure.us/","tenant_id":"t","client_id":"app","client_secret":"` + s.Secret() + `"}`)})
	for _, tc := range []struct {
		key        pub.Key
		change     func(*models.KeyTest)
		want       string
		wantRecord []string
	}{
		{revoked.Key, func(*models.KeyTest) {}, "unreachable unknown_answer", []string{dp.ID, "denied", "key_revoked"}},
		{rotated.Key, func(row *models.KeyTest) { row.Version = 2 }, "unreachable unknown_answer", []string{dp.ID, "denied", "no_key"}},
		{exchanged, func(*models.KeyTest) {}, "rejected", []string{models.ControlPlane, "allowed", "verification"}},
	} {
		id := s.addTest(t, tc.key, tc.change)
		requireRefused(t, claim(t, dp, id), http.StatusNotFound, "not-found")
		require.Equal(t, tc.want, s.found(t, id))
		record := s.Fetches(acme, web)[0]
		require.Equal(t, tc.wantRecord, []string{record.DataPlaneID, string(record.Decision), record.Reason})
	}
}
