package dataplane_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

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

// found is what a test has found.
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

	// What is signed here is refused elsewhere at another time.
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

// Data planes get neither a key that has been stopped in the meantime nor a credential that only the control plane can exchange. The waiting
// request gets an answer.
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
