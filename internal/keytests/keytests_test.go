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

// answers are the statuses with which a provider answers one request after the other; 0 is no answer.
type answers []int

func (a *answers) send(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil || string(body) != "{}" || r.Header.Get("Authorization") == "" || len(*a) == 0 {
		return nil, errors.New("a request that nobody expects")
	}
	status := (*a)[0]
	*a = (*a)[1:]
	if status == 0 {
		return nil, context.DeadlineExceeded
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Date": {"now"}}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

func TestRun(t *testing.T) {
	for name, tc := range map[string]struct {
		signed, madeUp bool
		answers        answers
		want           string
	}{
		"accepted":                             {answers: answers{200}, want: "valid"},
		"rejected":                             {answers: answers{401}, want: "rejected"},
		"not answered":                         {answers: answers{0}, want: "unreachable timeout"},
		"signed, and rejected once":            {signed: true, answers: answers{401, 200}, want: "valid"},
		"signed, and rejected twice":           {signed: true, answers: answers{401, 401}, want: "rejected"},
		"a made-up key is rejected":            {madeUp: true, answers: answers{200, 401}, want: "valid"},
		"a made-up key is forbidden":           {madeUp: true, answers: answers{200, 403}, want: "valid"},
		"a made-up key is accepted":            {madeUp: true, answers: answers{200, 200}, want: "unreachable any_key"},
		"a made-up key is out of balance":      {madeUp: true, answers: answers{200, 402}, want: "unreachable any_key"},
		"a made-up key gets no answer":         {madeUp: true, answers: answers{200, 0}, want: "unreachable timeout"},
		"a made-up key is answered otherwise":  {madeUp: true, answers: answers{200, 500}, want: "unreachable unknown_answer"},
		"no made-up key beside a rejected one": {madeUp: true, answers: answers{401}, want: "rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://llm.example/v1/models", strings.NewReader("{}"))
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer key")
			test := keytests.Test{Request: request, Signed: tc.signed}
			if tc.madeUp {
				test.MadeUp = http.Header{"Authorization": {"Bearer made-up"}}
			}
			got := keytests.Run(t.Context(), tc.answers.send, test)
			require.Equal(t, tc.want, strings.TrimSpace(string(got.Outcome)+" "+got.Reason))
			require.Empty(t, tc.answers)
		})
	}
}
