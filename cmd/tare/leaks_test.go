package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The service answers that each value with "sk-" is the secret of a key.
func TestLeaks(t *testing.T) {
	var asked []map[string]any
	var s *fakeService
	s = newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) {
		var request struct {
			Values []string
			Revoke bool
			Source string
		}
		require.NoError(t, json.Unmarshal([]byte(s.lastBody()), &request))
		asked = append(asked, map[string]any{"values": len(request.Values), "revoke": request.Revoke, "source": request.Source})
		matches := []any{}
		for i, value := range request.Values {
			match := map[string]any{"index": i, "kind": "key", "key_id": sampleID, "version": 1, "provider": "openai", "name": "main", "state": "active", "action": "none"}
			if request.Revoke {
				match["state"], match["action"], match["receipt"] = "revoked", "revoked", receiptDocument(3)["receipt"]
			}
			if strings.Contains(value, "sk-") {
				matches = append(matches, match)
			}
		}
		writeJSON(w, http.StatusOK, map[string]any{"matches": matches})
	})
	u := s.user(t)
	t.Run("of a report", func(t *testing.T) {
		findings := []map[string]any{
			{"Secret": "sk-EXAMPLE-EXAMPLE-9f3c", "Match": "x", "File": "a.py", "StartLine": 12, "Commit": "0123456789abcdef"},
			{"Secret": "sk-EXAMPLE-EXAMPLE-9f3c", "File": "b.py", "StartLine": 3},
		}
		for i := range 150 {
			findings = append(findings, map[string]any{"Secret": fmt.Sprintf("other-%04d", i), "File": "c", "StartLine": i})
		}
		report := filepath.Join(t.TempDir(), "report.json")
		write := func(text string) { require.NoError(t, os.WriteFile(report, []byte(text), 0o600)) }
		text, err := json.Marshal(findings)
		require.NoError(t, err)
		write(string(text))
		got := u.run("leaks --from " + report)
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Regexp(t, `a\.py:12 \(01234567\) +`+sampleID+` +openai +main +active\s*\nb\.py:3\s*\n$`, got.Stdout)
		require.Equal(t, []map[string]any{{"values": 100, "revoke": false, "source": ""}, {"values": 51, "revoke": false, "source": ""}}, asked)

		asked = nil
		require.Equal(t, exitUsage, u.run("leaks --revoke --from "+report).Code, "there is no terminal to ask on")
		got = u.run("leaks --revoke --yes --source nightly --from " + report)
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Regexp(t, sampleID+` +openai +main +revoked +revoked +complete`, got.Stdout)
		require.Equal(t, map[string]any{"values": 1, "revoke": true, "source": "nightly"}, asked[len(asked)-1], "what does not match is not sent again")
		require.NotContains(t, got.Output(), "EXAMPLE-9f3c")

		asked = nil
		for bad, complaint := range map[string]string{`{"Secret": "sk-1"}`: "not a report of gitleaks", `[{"Secret":"REDACTED","File":"a"}]`: "without --redact"} {
			write(bad)
			got := u.run("leaks --from " + report)
			require.Equal(t, exitUsage, got.Code)
			require.Contains(t, got.Stderr, complaint)
		}
		require.Empty(t, asked)
	})
	t.Run("of lines", func(t *testing.T) {
		asked = nil
		got := u.runWithInput("OPENAI_API_KEY=sk-EXAMPLE-EXAMPLE-9f3c\n\nnothing\n", "leaks", "-o", "json")
		require.Equal(t, exitOK, got.Code, got.Stderr)
		var found struct {
			Leaks []struct {
				Places []string
				Match  map[string]any
			}
		}
		require.NoError(t, json.Unmarshal([]byte(got.Stdout), &found))
		require.Equal(t, []string{"line 1"}, found.Leaks[0].Places)
		require.Equal(t, sampleID, found.Leaks[0].Match["key_id"])
		require.Equal(t, []map[string]any{{"values": 2, "revoke": false, "source": ""}}, asked)
		got = u.runWithInput("nothing\n", "leaks")
		require.Equal(t, exitOK, got.Code)
		require.Contains(t, got.Stderr, "No key")
	})
}
