package dataplane_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// reply is the answer to a request that the generated client would not make.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) StatusCode() int { return r.status }
func (r reply) GetBody() []byte { return r.body }

func (s *service) send(t testing.TB, method, path, token, body string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	var text bytes.Buffer
	if resp.Header.Get("Content-Type") != eventStream {
		_, err = io.Copy(&text, resp.Body)
		require.NoError(t, err)
	}
	return reply{resp.StatusCode, resp.Header, text.Bytes()}
}

// operations returns a valid request for each operation of the document.
func operations(t testing.TB) map[string]struct{ method, path, body string } {
	t.Helper()
	all := map[string]struct{ method, path, body string }{
		"fetchKey":     {http.MethodPost, "/v1/fetch", `{"customer_id":"acme","project_id":"web","provider":"openai"}`},
		"reportKeys":   {http.MethodPost, "/v1/reports", `{"keys":[{"key_id":"byok_01M83VVAHV8M2T5K7N9R4W1XYZ","used_ms_ago":1}]}`},
		"streamEvents": {http.MethodGet, "/v1/events", ""},
		"acknowledge":  {http.MethodPost, "/v1/acknowledgements", `{"session_id":"01M83VVAHQQW2E4R6T8Y0A1S3D","position":"1:1:"}`},
	}
	checked, err := contract()
	require.NoError(t, err)
	for path, item := range checked.Doc.Paths.Map() {
		for method, op := range item.Operations() {
			require.Equal(t, []string{method, path}, []string{all[op.OperationID].method, all[op.OperationID].path})
		}
	}
	return all
}

func TestOperationsRequireDataPlaneCredential(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		unknown, _, _, err := auth.MintDataPlane(time.Now())
		require.NoError(t, err)
		revoked := s.dataPlane()
		s.revoke(revoked)
		for name, token := range map[string]string{
			"none":       "",
			"garbage":    s.marked(),
			"unknown":    s.hide(unknown),
			"a user's":   s.credential(owner),
			"revoked":    revoked.token,
			"expired":    s.dataPlane(func(d *models.DataPlane) { d.ExpiresAt = time.Now().UnixMicro() - 1 }).token,
			"mistyped":   revoked.token[:len(revoked.token)-1] + "-",
			"with dashs": "dp-" + s.dataPlane().token,
		} {
			for operation, o := range operations(t) {
				t.Run(operation+" with "+name, func(t *testing.T) {
					got := s.send(t, o.method, o.path, token, o.body)
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
		s.runFeed(t)
		key := s.shared("openai")
		for name, request := range map[string]func(dp *dataPlane) answer{
			"fetch for a caller": func(dp *dataPlane) answer { return fetch(t, dp, forCaller(s.credential(member), "openai")) },
			"fetch for a user":   func(dp *dataPlane) answer { return fetch(t, dp, forUser(web, member, "openai")) },
			"fetch by id":        func(dp *dataPlane) answer { return fetch(t, dp, forKey(key.ID)) },
			"report": func(dp *dataPlane) answer {
				return s.send(t, http.MethodPost, "/v1/reports", dp.token, operations(t)["reportKeys"].body)
			},
			"stream": func(dp *dataPlane) answer { return s.send(t, http.MethodGet, "/v1/events", dp.token, "") },
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

func TestDataPlaneServesOnlyItsCustomers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		ours := s.shared("openai")
		secret := s.marked()
		globexOwner := s.public.Session(globex, web, owner)
		theirs := held{s.registerAs(globexOwner, pub.RegisterRequest{Provider: "openai", Name: "n", Secret: gensecret.New(secret)}), secret}
		token := s.hide(globexOwner.Token)
		forGlobex := gen.FetchRequest{CustomerID: ptr(globex), ProjectID: ptr(web), UserID: ptr(owner), Provider: ptr("openai")}
		ways := map[string]gen.FetchRequest{"for a caller": forCaller(token, "openai"), "for a user": forGlobex, "by id": forKey(theirs.ID)}
		for name, dp := range map[string]*dataPlane{"another": s.dataPlane(serving(acme)), "none": s.dataPlane(serving())} {
			for way, body := range ways {
				t.Run("for "+name+": "+way, func(t *testing.T) {
					doc := requireRefused(t, fetch(t, dp, body), http.StatusForbidden, "customer-not-served")
					require.Equal(t, "permission_denied", doc.Code)
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
		requireRefused(t, fetch(t, dp, forKey("byok_01M83VVAHV8M2T5K7N9R4W1XYZ")), http.StatusNotFound, "not-found")
	})
}
