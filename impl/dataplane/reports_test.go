package dataplane_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/verification"
)

// key returns what the public API tells a user of a key.
func (s *service) key(t *testing.T, user, id string) pub.Key {
	t.Helper()
	reply, err := s.public.As(user).GetKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, id, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, reply.StatusCode())
	return reply.JSON200.Key
}

func TestReportShowsInKey(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, used, failed := s.dataPlane(), s.shared("openai"), s.shared("mistral")
		require.Nil(t, s.key(t, member, used.ID).LastUsedAt)
		now := time.Now()
		reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: []gen.KeyReport{
			{KeyID: used.ID, UsedMsAgo: new(10_000)},
			{KeyID: failed.ID, UsedMsAgo: new(60_000), FailedMsAgo: new(2_000), FailureStatus: new(http.StatusForbidden), FailureReason: new("leaked")},
		}})
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, reply.StatusCode())
		got := s.key(t, member, used.ID)
		require.WithinDuration(t, now.Add(-10*time.Second), *got.LastUsedAt, 5*time.Second)
		require.Nil(t, got.LastFailure)
		got = s.key(t, member, failed.ID)
		require.WithinDuration(t, now.Add(-time.Minute), *got.LastUsedAt, 5*time.Second)
		require.WithinDuration(t, now.Add(-2*time.Second), got.LastFailure.At, 5*time.Second)
		require.Equal(t, http.StatusForbidden, got.LastFailure.Status)
		require.Equal(t, new("leaked"), got.LastFailure.Reason)
	})
}

// Whole numbers from a million on were refused once.
func TestReportsUpToADayOld(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp := s.dataPlane()
	for _, ago := range []time.Duration{999_999 * time.Millisecond, 1_000_000 * time.Millisecond, 24 * time.Hour} {
		key, ms := s.shared("openai"), int(ago.Milliseconds())
		reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: []gen.KeyReport{
			{KeyID: key.ID, UsedMsAgo: &ms, FailedMsAgo: &ms, FailureStatus: new(http.StatusForbidden)},
		}})
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, reply.StatusCode(), "%s ago", ago)
		got := s.key(t, member, key.ID)
		require.WithinDuration(t, time.Now().Add(-ago), *got.LastUsedAt, 5*time.Second)
		require.WithinDuration(t, time.Now().Add(-ago), got.LastFailure.At, 5*time.Second)
	}
}

func TestFailingKeyEvents(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, project, mine := s.dataPlane(), s.shared("openai"), s.own(member, "openai")
		failing := func(user string) []pub.Event { // those events that the user may read
			reply, err := s.public.As(user).ListEventsWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, nil)
			require.NoError(t, err)
			return slices.DeleteFunc(reply.JSON200.Events, func(e pub.Event) bool { return e.Type != "key.failing" })
		}
		for range 2 { // failing on is no news
			report(t, dp, project.ID, true, 0)
			report(t, dp, mine.ID, true, 0)
		}
		require.Len(t, failing(other), 1, "of the project's key")
		events := failing(member)
		require.Len(t, events, 2)
		for _, e := range events {
			require.Equal(t, pub.Actor{UserID: dp.ID, Method: "data_plane"}, e.Actor)
			require.Equal(t, "openai", *e.Provider)
			require.Equal(t, "allowed", e.Outcome)
			require.Empty(t, e.SourceIP, "addresses of others are for owners")
			require.NotEmpty(t, e.RequestID)
		}
		require.ElementsMatch(t, []string{project.ID, mine.ID}, []string{*events[0].KeyID, *events[1].KeyID})
		report(t, dp, project.ID, false, 0)
		report(t, dp, project.ID, true, 0)
		require.Len(t, failing(other), 2, "it had recovered in between")
	})
}

func TestEventsOfReportsNameTheCaller(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key, token := s.dataPlane(), s.shared("openai"), s.public.As(member).TokenID
		for range 2 {
			reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: []gen.KeyReport{{
				KeyID: key.ID, FailedMsAgo: new(0), FailureStatus: new(401), FailedFor: &gen.ReportedCaller{UserID: member, TokenID: &token},
				ExposedMsAgo: new(1), ExposedFor: &gen.ReportedCaller{UserID: other},
			}}})
			require.NoError(t, err)
			require.Equal(t, http.StatusNoContent, reply.StatusCode(), "%s", reply.Body)
		}
		reply, err := s.public.As(owner).ListEventsWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, nil)
		require.NoError(t, err)
		got := map[string][]*string{}
		for _, e := range reply.JSON200.Events {
			if strings.HasPrefix(e.Type, "key.") && e.Actor.Method == "data_plane" {
				require.NotContains(t, got, e.Type, "one of each")
				require.Equal(t, []string{key.ID, "openai", dp.ID}, []string{*e.KeyID, *e.Provider, e.Actor.UserID})
				got[e.Type] = []*string{e.MemberID, e.TokenID}
			}
		}
		require.Equal(t, map[string][]*string{"key.failing": {new(member), &token}, "key.exposed": {new(other), nil}}, got)
	})
}

func TestReportOfUnservedCustomer(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, ours := s.dataPlane(serving(acme)), s.shared("openai")
		globexOwner := s.public.Session(globex, web, owner)
		theirs := s.register(globexOwner, "openai", false)
		var keys []gen.KeyReport
		for _, id := range []string{theirs.ID, absent, ours.ID} {
			keys = append(keys, gen.KeyReport{KeyID: id, FailedMsAgo: new(0), FailureStatus: new(401)})
		}
		reply, err := dp.ReportKeysWithResponse(t.Context(), gen.ReportRequest{Keys: keys})
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, reply.StatusCode())
		require.NotNil(t, s.key(t, member, ours.ID).LastFailure)
		got, err := globexOwner.GetKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, theirs.ID, nil)
		require.NoError(t, err)
		require.Nil(t, got.JSON200.Key.LastFailure)
	})
}

func TestInvalidReports(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp, key := s.dataPlane(), s.shared("openai")
	for name, keys := range map[string]string{
		"no keys":                  ``,
		"a key twice":              `{"key_id":"ID","used_ms_ago":1},{"key_id":"ID","used_ms_ago":2}`,
		"a failure without status": `{"key_id":"ID","failed_ms_ago":1}`,
		"a status without failure": `{"key_id":"ID","failure_status":401}`,
		"a caller without failure": `{"key_id":"ID","used_ms_ago":1,"failed_for":{"user_id":"bob"}}`,
		"a caller of nothing":      `{"key_id":"ID","exposed_for":{"user_id":"bob"}}`,
		"a caller without a name":  `{"key_id":"ID","exposed_ms_ago":1,"exposed_for":{"user_id":""}}`,
		"a token's secret":         `{"key_id":"ID","exposed_ms_ago":1,"exposed_for":{"user_id":"bob","token_id":"ak_x"}}`,
		"no key's id":              `{"key_id":"byok_1","used_ms_ago":1}`,
		"in the future":            `{"key_id":"ID","used_ms_ago":-1}`,
		"a day and more ago":       `{"key_id":"ID","used_ms_ago":86400001}`,
		"a success that failed":    `{"key_id":"ID","failed_ms_ago":1,"failure_status":200}`,
		"something more":           `{"key_id":"ID","used_ms_ago":1,"secret":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			body := `{"keys":[` + strings.ReplaceAll(keys, "ID", key.ID) + `]}`
			got := s.send(t, dp.token, operation{http.MethodPost, "/v1/reports", body})
			doc := requireRefused(t, got, http.StatusBadRequest, "invalid-argument")
			require.Contains(t, doc.Errors[0].Field, "keys")
		})
	}
	got := s.key(t, member, key.ID)
	require.Nil(t, got.LastUsedAt)
	require.Nil(t, got.LastFailure)
}

// The key that its provider refuses is tested once, whatever the number of reports, and it serves on.
func TestKeyThatBeginsToFailIsTested(t *testing.T) {
	var asked atomic.Int32
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(provider.Close)
	address, err := url.Parse(provider.URL)
	require.NoError(t, err)
	tester := verification.New(verification.Config{Upstreams: map[string]*url.URL{"openai": address}, Transport: provider.Client().Transport})
	t.Cleanup(func() { require.EqualValues(t, 2, asked.Load(), "once on each engine") })
	each(t, func(t *testing.T, s *service) {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		ended := make(chan error, 1)
		go func() { ended <- s.public.Tests.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-ended)
		})
		dp, key := s.dataPlane(), s.shared("openai")
		limited := s.dataPlane(serving(globex))
		report(t, limited, key.ID, true, 0)
		require.Nil(t, s.key(t, owner, key.ID).Verification, "of a data plane that may not serve the customer")
		for range 3 {
			report(t, dp, key.ID, true, 0)
		}
		require.Eventually(t, func() bool { return s.key(t, owner, key.ID).Verification != nil }, 10*time.Second, 5*time.Millisecond)
		got := s.key(t, owner, key.ID)
		require.Equal(t, []any{"rejected", "rejected", false}, []any{got.Verification.Verdict, *got.NotServingReason, *got.Serves})
		reply, err := s.public.As(owner).ListEventsWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, nil)
		require.NoError(t, err)
		event := reply.JSON200.Events[0]
		require.Equal(t, []string{"key.verified", "data_plane", dp.ID}, []string{event.Type, event.Actor.Method, event.Actor.UserID})
		requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
	}, func(o *options) { o.tester = tester })
}
