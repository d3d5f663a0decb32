package dataplane_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oapi-codegen/runtime/types"
	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/models"
)

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

// lines returns what the entries say, without the day.
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
	s := start(t, "sqlite", options{})
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
	s := start(t, "sqlite", options{})
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
	count(t, dp, 9_007_199_254_740_991, counts...) // fits a body
	u := usage(t, s.public.As(owner), pub.ListUsageParams{}).Usage[0]
	require.EqualValues(t, 250_000_000_000, u.Requests)
	require.Equal(t, models.KeyIDPrefix, u.KeyID[:len(models.KeyIDPrefix)])
}
