package dataplane_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

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
	each(t, func(t *testing.T, s *service) {
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
		require.Empty(t, s.records(acme, web), "an unauthenticated fetch leaves no record")
	})
}

// Every operation that gives anything out checks the credential in its own statement, so a cached session does not help.
func TestRevokedDataPlaneIsRefusedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.runFeed()
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
				before := len(s.records(acme, web))
				s.revoke(dp)
				for range 2 {
					requireRefused(t, request(dp), http.StatusUnauthorized, "unauthenticated")
				}
				require.Len(t, s.records(acme, web), before)
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
			delete(doc, "instance") // has it too
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
	s := start(t, "sqlite", options{ready: func() bool { return false }})
	dp := s.dataPlane()
	for operation, o := range operations {
		t.Run(operation, func(t *testing.T) {
			requireRefused(t, s.send(t, dp.token, o), http.StatusServiceUnavailable, "unavailable")
		})
	}
}

func TestOperationsWithoutDatabase(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp := s.dataPlane()
	require.Equal(t, http.StatusNotFound, fetch(t, dp, forUser(web, member, "openai")).StatusCode(), "the session is cached")
	require.NoError(t, s.Store.Close())
	for operation, o := range operations {
		t.Run(operation, func(t *testing.T) {
			requireRefused(t, s.send(t, dp.token, o), http.StatusServiceUnavailable, "unavailable")
		})
	}
}
