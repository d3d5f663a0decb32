package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestResolveExplainsEveryKey(t *testing.T) {
	s := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{
			"provider": "openai", "serves": true, "reason": "user_key", "scope": "user", "user_keys": "allow", "on_bad_key": "fail",
			"candidates": []any{
				map[string]any{"scope": "user", "serves": true, "reason": "user_key"},
				map[string]any{"scope": "project", "serves": false, "reason": "not_first", "key": keyDocument("main")},
				map[string]any{"scope": "project", "serves": false, "reason": "some_new_reason", "key": keyDocument("other")},
			},
		})
	})
	got := s.user(t).run("api byok resolve --provider openai --explain --user bob")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Regexp(t, `Served by +a key of their own\n`, got.Stdout)
	require.Regexp(t, `yes +a key of their own +own`, got.Stdout)
	require.Regexp(t, `no +main .*another key comes before it`, got.Stdout)
	require.Regexp(t, `no +other .*some_new_reason`, got.Stdout)
	require.NotContains(t, s.user(t).run("api byok resolve --explain").Stdout, "main", "--provider is required")
}
