package verdict_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/verdict"
)

var rules = verdict.Rules{
	{Status: 400, At: "error.details.reason", Is: "API_KEY_INVALID", Means: verdict.Rejected},
	{Status: 400, At: "error.message", Begins: "No balance", Means: verdict.QuotaExhausted},
	{Status: 403, At: "error.metadata.flagged", Means: verdict.Unrelated},
	{Status: 200, At: "blocked", Is: "true", Means: verdict.Rejected},
	{Status: 412, Means: verdict.Rejected},
	{Status: 418, Means: "of a later version"},
}

func TestJudge(t *testing.T) {
	cases := []struct {
		name   string
		status int
		body   string
		want   verdict.Verdict
	}{
		{"a member of an array's element", 400, `{"error": {"details": [{"x": 1}, {"reason": "API_KEY_INVALID"}]}}`, verdict.Rejected},
		{"a document in an array", 400, `[{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}]`, verdict.Rejected},
		{"a document that is cut off", 400, `{"error": {"details": [{"reason": "API_KEY_INVALID"}], "more": "…`, verdict.Rejected},
		{"the beginning of a text", 400, `{"error": {"message": "No balance is left."}}`, verdict.QuotaExhausted},
		{"a member whatever its value", 403, `{"error": {"metadata": {"flagged": ["x"]}}}`, verdict.Unrelated},
		{"a boolean", 200, `{"blocked": true}`, verdict.Rejected},
		{"a status alone", 412, "", verdict.Rejected},
		{"a meaning that is not known", 418, "", verdict.Unknown},
		{"the caller's text in a message", 400, `{"error": {"message": "Unknown name \"API_KEY_INVALID\"."}}`, verdict.Unknown},
		{"the caller's text in another member", 400, `{"error": {"details": [{"field": "API_KEY_INVALID"}]}}`, verdict.Unknown},
		{"the caller's text as a name", 400, `{"error": {"details": {"reason.API_KEY_INVALID": {"reason": "x"}}}}`, verdict.Unknown},
		{"a message that only contains it", 400, `{"error": {"message": "model: No balance"}}`, verdict.Unknown},
		{"another status", 404, `{"error": {"message": "No balance"}}`, verdict.Accepted},
		{"a name without its value", 400, `{"error": {"message"`, verdict.Unknown},
		{"no JSON", 400, `<html>API_KEY_INVALID</html>`, verdict.Unknown},
		{"a deep document", 400, strings.Repeat(`{"error":`, 4000) + `"x"`, verdict.Unknown},
		{"no body", 400, "", verdict.Unknown},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, rules.Judge(test.status, []byte(test.body)))
		})
	}
}

func TestStatusDecidesWithoutARule(t *testing.T) {
	want := map[int]verdict.Verdict{
		0: verdict.Unknown, 101: verdict.Accepted, 200: verdict.Accepted, 302: verdict.Accepted, 400: verdict.Unknown, 401: verdict.Rejected,
		402: verdict.QuotaExhausted, 403: verdict.Forbidden, 404: verdict.Accepted, 429: verdict.RateLimited, 500: verdict.Unknown,
	}
	for status, want := range want {
		require.Equal(t, want, verdict.Rules(nil).Judge(status, nil), status)
		require.False(t, verdict.Rules(nil).NeedBody(status))
	}
	require.True(t, rules.NeedBody(http.StatusBadRequest))
	require.False(t, rules.NeedBody(http.StatusPreconditionFailed))
}

func TestOnlyTheKeysFailuresAreFailures(t *testing.T) {
	for _, v := range []verdict.Verdict{verdict.Rejected, verdict.Leaked, verdict.QuotaExhausted} {
		require.True(t, v.IsFailure(), v)
	}
	for _, v := range []verdict.Verdict{
		verdict.Accepted, verdict.Restricted, verdict.Unrelated, verdict.Forbidden, verdict.RateLimited, verdict.Unknown,
	} {
		require.False(t, v.IsFailure(), v)
	}
}

func TestRulesThatMakeNoSenseAreRefused(t *testing.T) {
	require.NoError(t, rules[:5].Validate())
	for _, bad := range []verdict.Rule{
		{Status: 500, Means: verdict.Rejected},
		{Means: verdict.Rejected},
		{Status: 400},
		{Status: 400, Means: verdict.Forbidden},
		{Status: 400, Is: "x", Means: verdict.Rejected},
		{Status: 400, At: "a", Is: "x", Begins: "x", Means: verdict.Rejected},
	} {
		require.Error(t, verdict.Rules{bad}.Validate(), bad)
	}
}
