package keytests_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/keytests"
)

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		signed, madeUp bool
		answers        []int // the statuses of the answers in order; 0 means no answer
		want           string
	}{
		"accepted":                             {answers: []int{200}, want: "valid"},
		"rejected":                             {answers: []int{401}, want: "rejected"},
		"not answered":                         {answers: []int{0}, want: "unreachable timeout"},
		"signed, and rejected once":            {signed: true, answers: []int{401, 200}, want: "valid"},
		"signed, and rejected twice":           {signed: true, answers: []int{401, 401}, want: "rejected"},
		"a made-up key is rejected":            {madeUp: true, answers: []int{200, 401}, want: "valid"},
		"a made-up key is forbidden":           {madeUp: true, answers: []int{200, 403}, want: "valid"},
		"a made-up key is accepted":            {madeUp: true, answers: []int{200, 200}, want: "unreachable any_key"},
		"a made-up key is out of balance":      {madeUp: true, answers: []int{200, 402}, want: "unreachable any_key"},
		"a made-up key gets no answer":         {madeUp: true, answers: []int{200, 0}, want: "unreachable timeout"},
		"a made-up key is answered otherwise":  {madeUp: true, answers: []int{200, 500}, want: "unreachable unknown_answer"},
		"no made-up key beside a rejected one": {madeUp: true, answers: []int{401}, want: "rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://llm.example/v1/models", strings.NewReader("{}"))
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer key")
			test := keytests.Test{Request: request, Signed: tc.signed}
			if tc.madeUp {
				test.MadeUp = http.Header{"Authorization": {"Bearer made-up"}}
			}
			got := keytests.Run(t.Context(), func(r *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != "{}" || r.Header.Get("Authorization") == "" || len(tc.answers) == 0 {
					return nil, errors.New("a request that nobody expects")
				}
				status := tc.answers[0]
				tc.answers = tc.answers[1:]
				if status == 0 {
					return nil, context.DeadlineExceeded
				}
				return &http.Response{StatusCode: status, Header: http.Header{"Date": {"now"}}, Body: io.NopCloser(strings.NewReader(""))}, nil
			}, test)
			require.Equal(t, tc.want, strings.TrimSpace(string(got.Outcome)+" "+got.Reason))
			require.Empty(t, tc.answers)
		})
	}
}
