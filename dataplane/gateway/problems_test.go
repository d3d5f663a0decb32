package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/internal/problem"
)

func TestProblemOfEachRefusal(t *testing.T) {
	cases := map[error]struct {
		status int
		code   string
	}{
		dataplane.ErrCallerUnauthenticated:    {401, "caller_unauthenticated"},
		dataplane.ErrNotMember:                {403, "not_a_member"},
		dataplane.ErrKeyRevoked:               {403, "key_revoked"},
		dataplane.ErrKeyDisabled:              {403, "key_disabled"},
		dataplane.ErrKeyExpired:               {403, "key_expired"},
		dataplane.ErrCustomerNotServed:        {403, "customer_not_served"},
		dataplane.ErrNoKey:                    {403, "no_key"},
		dataplane.ErrUserKeyRequired:          {403, "user_key_required"},
		dataplane.ErrInvalid:                  {404, "unknown_provider"},
		dataplane.ErrUnsupportedAuth:          {501, "unsupported_auth"},
		dataplane.ErrUnavailable:              {503, "unavailable"},
		dataplane.ErrDataPlaneUnauthenticated: {503, "gateway_unauthenticated"},
		context.DeadlineExceeded:              {503, "unavailable"},
		errors.New("anything"):                {500, "internal"},
	}
	for err, want := range cases {
		t.Run(want.code, func(t *testing.T) {
			gw := start(t, dataplanetest.Refusing(fmt.Errorf("with MARKED text: %w", err)))
			res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
			problem := problemOf(t, res, body)
			require.Equal(t, want.status, problem.Status)
			require.Equal(t, want.code, problem.Error.Code)
			require.Equal(t, want.status == 503, res.Header.Get("Retry-After") == "1")
			require.Contains(t, gw.log.String(), problem.RequestID)
			requireUnmarked(t, body, gw.log.String())
			require.Empty(t, gw.Calls().Reports)
		})
	}
}

func TestARefusedCallerReadsTheControlPlanesReason(t *testing.T) {
	const detail = "The project's key openai-prod …9f3c was revoked at 2026-11-23T09:45:12Z by alice; no other key of this provider may serve you."
	gw := start(t, dataplanetest.Refusing(&dataplane.Refusal{Kind: dataplane.ErrKeyRevoked, Detail: detail}))
	res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
	problem := problemOf(t, res, body)
	require.Equal(t, 403, problem.Status)
	require.Equal(t, []string{detail, detail}, []string{problem.Detail, problem.Error.Message})
	require.NotContains(t, gw.log.String(), "alice", "the log names the problem alone")
}

// The control plane's public API explains the types, but can't import the table.
func TestEveryProblemTypeIsExplained(t *testing.T) {
	text, err := os.ReadFile("../../impl/docsite/problems.yaml")
	require.NoError(t, err)
	var pages map[string]struct {
		Gateway *struct {
			Status      int
			Code, Title string
			Details     []string
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &pages))
	types := problem.Types(Problems())
	require.Greater(t, len(types), 20)
	for _, p := range types {
		page, ok := pages[p.Slug]
		require.True(t, ok, "no explanation of %s", p.Slug)
		if page.Gateway != nil {
			got := page.Gateway
			require.Equal(t, []any{p.Status, p.Code, p.Title, p.Details}, []any{got.Status, got.Code, got.Title, got.Details}, p.Slug)
		}
	}
}
