package dataplane_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oapi-codegen/runtime/types"
	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/models"
)

// key returns a key as a user gets it from the public API.
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

// Whole numbers of a million or more were once refused.
func TestReportsUpToADayOld(t *testing.T) {
	s := onSQLite(t)
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
		failing := func(user string) []pub.Event { // the events that the user may read
			reply, err := s.public.As(user).ListEventsWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, nil)
			require.NoError(t, err)
			return slices.DeleteFunc(reply.JSON200.Events, func(e pub.Event) bool { return e.Type != "key.failing" })
		}
		for range 2 { // a second failure is no news
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
	s := onSQLite(t)
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

// A key that its provider refuses is tested once, whatever the number of reports, and continues to serve.
func TestKeyThatBeginsToFailIsTested(t *testing.T) {
	var asked atomic.Int32
	t.Cleanup(func() { require.EqualValues(t, 1, asked.Load()) })
	s := onSQLite(t, func(o *aikeystest.Options, _ *dataplane.Config) {
		o.Tester = aikeystest.NewTester(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
	feedtest.Run(t, s.public.Tests.Run)
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
}

const reporter = "01M83VVAHQQW2E4R6T8Y0A1S3D"

// count reports a batch of counts.
func count(t testing.TB, dp *dataPlane, batch int64, counts ...gen.UsageCount) {
	t.Helper()
	reply, err := dp.ReportUsageWithResponse(t.Context(), gen.UsageReport{ReporterID: reporter, Batch: batch, Counts: counts})
	require.NoError(t, err)
	require.Equal(t, http.StatusNoContent, reply.StatusCode(), "%s", reply.Body)
}

func requests(key held, user string, n, refused int64) gen.UsageCount {
	c := gen.UsageCount{KeyID: key.ID, Requests: n, Refusals: refused, LastUsedMsAgo: 2000}
	if user != "" {
		c.UserID = &user
	}
	return c
}

// usage returns a page of the usage, as a session reads it.
func usage(t testing.TB, as *aikeystest.Session, params pub.ListUsageParams) *pub.ListUsageResponse {
	t.Helper()
	reply, err := as.ListUsageWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, &params)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	return reply.JSON200
}

// lines returns the entries as texts, without the day.
func lines(of *pub.ListUsageResponse) (out []string) {
	for _, u := range of.Usage {
		user := ""
		if u.UserID != nil {
			user = *u.UserID
		}
		out = append(out, fmt.Sprintf("%s %s %d %d", u.KeyID, user, u.Requests, u.Refusals))
	}
	return out
}

func TestUsageIsReadByOwnersAndByTheUser(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, project, mine := s.dataPlane(), s.shared("openai"), s.own(member, "mistral")
		now := time.Now()
		count(t, dp, 1, requests(project, member, 3, 1), requests(project, other, 1, 0), requests(project, "", 5, 0), requests(mine, member, 2, 2))
		count(t, dp, 1, requests(project, member, 3, 1))
		count(t, dp, 2, requests(project, member, 1, 0))
		line := func(key held, user string, n, refused int64) string {
			return fmt.Sprintf("%s %s %d %d", key.ID, user, n, refused)
		}
		all := usage(t, s.public.As(owner), pub.ListUsageParams{})
		require.ElementsMatch(t, []string{line(mine, member, 2, 2), line(project, member, 4, 1), line(project, other, 1, 0), line(project, "", 5, 0)}, lines(all))
		require.Equal(t, "mistral", all.Usage[0].Provider)
		require.WithinDuration(t, now.Add(-2*time.Second), all.Usage[0].LastUsedAt, 5*time.Second)
		require.Equal(t, types.Date{Time: all.Usage[0].LastUsedAt.UTC().Truncate(24 * time.Hour)}, all.Usage[0].Day)

		require.Equal(t, []string{line(mine, member, 2, 2), line(project, member, 4, 1)}, lines(usage(t, s.public.As(member), pub.ListUsageParams{})))
		require.Equal(t, []string{line(project, other, 1, 0)}, lines(usage(t, s.public.As(other), pub.ListUsageParams{})))
		require.Empty(t, lines(usage(t, s.public.Session(globex, web, owner), pub.ListUsageParams{})))
		require.Len(t, usage(t, s.public.As(owner), pub.ListUsageParams{KeyID: &project.ID, UserID: new(member)}).Usage, 1)
		require.Len(t, usage(t, s.public.As(owner), pub.ListUsageParams{Provider: new("mistral")}).Usage, 1)
		require.Empty(t, usage(t, s.public.As(owner), pub.ListUsageParams{From: new(now.Add(time.Hour))}).Usage)
		require.Empty(t, usage(t, s.public.As(owner), pub.ListUsageParams{To: new(now.Add(-time.Hour).Truncate(time.Hour))}).Usage)
		require.Len(t, usage(t, s.public.As(owner), pub.ListUsageParams{From: &now, To: new(now.Add(time.Hour))}).Usage, 4)
	})
}

func TestUsageInPages(t *testing.T) {
	s := onSQLite(t)
	dp, key, long := s.dataPlane(), s.shared("openai"), strings.Repeat("u", 64)
	count(t, dp, 1, requests(key, "", 1, 0), requests(key, "a", 1, 0), requests(key, long, 1, 0), requests(key, "z", 1, 0))
	var paged []string
	params := pub.ListUsageParams{PageSize: new(1)}
	for range 4 {
		page := usage(t, s.public.As(owner), params)
		paged, params.PageToken = append(paged, lines(page)...), page.NextPageToken
	}
	require.Nil(t, params.PageToken)
	require.Equal(t, lines(usage(t, s.public.As(owner), pub.ListUsageParams{})), paged)
	for _, query := range []string{"page_token=MjA3ODA", "page_token=" + strings.Repeat("A", 40), "page_size=1001", "from=yesterday", "to=2026-11-23",
		"key_id=byok_1", "user_id=a+b", "day=1"} {
		got := s.public.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/customers/-/projects/-/usage?" + query, Token: s.credential(owner)})
		require.Equal(t, http.StatusBadRequest, got.Status, query)
	}
}

func TestUsageOfAnUnservedCustomer(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, ours := s.dataPlane(serving(acme)), s.shared("openai")
		globexOwner := s.public.Session(globex, web, owner)
		theirs := s.register(globexOwner, "openai", false)
		count(t, dp, 1, requests(theirs, owner, 1, 0), requests(held{Key: pub.Key{ID: absent}}, owner, 1, 0), requests(ours, member, 1, 0))
		require.Len(t, usage(t, s.public.As(owner), pub.ListUsageParams{}).Usage, 1)
		require.Empty(t, usage(t, globexOwner, pub.ListUsageParams{}).Usage)
	})
}

func TestInvalidUsageReports(t *testing.T) {
	s := onSQLite(t)
	dp, key := s.dataPlane(), s.shared("openai")
	valid := `{"key_id":"` + key.ID + `","user_id":"mia","requests":1,"refusals":0,"last_used_ms_ago":1}`
	replaced := func(old, by string) string { return strings.Replace(valid, old, by, 1) }
	for name, counts := range map[string]string{
		"none":                        ``,
		"too many":                    strings.Repeat(valid+",", 250) + valid,
		"more refusals than requests": replaced(`"refusals":0`, `"refusals":2`),
		"no requests":                 replaced(`"requests":1`, `"requests":0`),
		"too many requests":           replaced(`"requests":1`, `"requests":1000000001`),
		"in the future":               replaced(`ago":1`, `ago":-1`),
		"a day and more ago":          replaced(`ago":1`, `ago":86400001`),
		"no key's id":                 replaced(key.ID, "byok_1"),
		"a user that is a dash":       replaced("mia", "-"),
		"a user that is no id":        replaced("mia", "m i a"),
		"something more":              replaced(`"requests"`, `"secret":"x","requests"`),
	} {
		t.Run(name, func(t *testing.T) {
			body := `{"reporter_id":"` + reporter + `","batch":1,"counts":[` + counts + `]}`
			doc := requireRefused(t, s.send(t, dp.token, operation{http.MethodPost, "/v1/usage", body}), http.StatusBadRequest, "invalid-argument")
			require.Contains(t, doc.Errors[0].Field, "counts")
		})
	}
	for _, numbers := range []string{`"reporter_id":"r","batch":1`, `"reporter_id":"` + reporter + `","batch":0`} {
		requireRefused(t, s.send(t, dp.token, operation{http.MethodPost, "/v1/usage", `{` + numbers + `,"counts":[` + valid + `]}`}),
			http.StatusBadRequest, "invalid-argument")
	}
	require.Empty(t, usage(t, s.public.As(owner), pub.ListUsageParams{}).Usage)
	largest := gen.UsageCount{KeyID: key.ID, UserID: new(strings.Repeat("u", 64)), Requests: 1_000_000_000, Refusals: 1_000_000_000,
		LastUsedMsAgo: int((24 * time.Hour).Milliseconds())}
	counts := make([]gen.UsageCount, 250)
	for i := range counts {
		counts[i] = largest
	}
	count(t, dp, 9_007_199_254_740_991, counts...) // the largest number that a body may have
	u := usage(t, s.public.As(owner), pub.ListUsageParams{}).Usage[0]
	require.EqualValues(t, 250_000_000_000, u.Requests)
	require.Equal(t, models.KeyIDPrefix, u.KeyID[:len(models.KeyIDPrefix)])
}
