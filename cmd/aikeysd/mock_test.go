package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// sdk returns a client of the Go SDK.
func (s *server) sdk(token string) *agentrouter.Client {
	s.t.Helper()
	client, err := agentrouter.New(s.t.Context(), agentrouter.WithBaseURL(s.api), agentrouter.WithAPIKey(token), agentrouter.WithHTTPClient(client))
	require.NoError(s.t, err)
	return client
}

func TestMockIsTheService(t *testing.T) {
	t.Parallel()
	const origin = "http://localhost:5173"
	data := filepath.Join(t.TempDir(), "mock")
	s := startDev(t, data, "--mock", "--cors-origins", origin)
	ctx, keys := t.Context(), s.sdk("any").AIKeys()

	t.Run("it has a key in each state", func(t *testing.T) {
		has := map[string]func(k aikeysv1.Key) bool{
			"active":  func(k aikeysv1.Key) bool { return *k.Serves && k.Version == 2 },
			"revoked": func(k aikeysv1.Key) bool { return k.Receipt != nil && k.Receipt.State == "complete" },
			"failing": func(k aikeysv1.Key) bool {
				return k.LastFailure != nil && k.LastFailure.Status == http.StatusUnauthorized
			},
			"disabled":  func(k aikeysv1.Key) bool { return *k.Disabled },
			"limited":   func(k aikeysv1.Key) bool { return k.Limit != nil && k.Limit.RequestsPerMinute == 60 },
			"one's own": func(k aikeysv1.Key) bool { return k.UserScope && k.CreatedBy == devOwner },
		}
		list, err := keys.List(ctx, "", "")
		require.NoError(t, err)
		for _, k := range list.Keys {
			one, err := keys.Get(ctx, "", "", k.ID) // which has the receipt
			require.NoError(t, err)
			for name, is := range has {
				if is(one.Key) {
					delete(has, name)
				}
			}
		}
		require.Empty(t, has)
		empty, err := keys.List(ctx, devCustomer, mockEmptyProject)
		require.NoError(t, err)
		require.Empty(t, empty.Keys)
		denied := s.get(s.api+"/v1/customers/-/projects/-/events?outcome=denied", "any")
		require.Contains(t, denied.body, `"user_id":"bob"`)
	})
	t.Run("what a program does there stays", func(t *testing.T) {
		added, err := keys.Register(ctx, "", "", "openai", "mine", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9999", false)
		require.NoError(t, err)
		_, err = keys.Register(ctx, "", "", "openai", "mine", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9998", false)
		require.ErrorIs(t, err, agentrouter.ErrAlreadyExists)
		revoked, err := keys.With(agentrouter.Wait(30*time.Second)).Revoke(ctx, "", "", added.Key.ID)
		require.NoError(t, err)
		require.EqualValues(t, "complete", revoked.Receipt.State)
		require.Equal(t, 1, revoked.Receipt.Acknowledged, "by the gateway")
	})
	t.Run("bob is a member, and a revoked API key is none", func(t *testing.T) {
		_, err := s.sdk(devMember).AIKeys().Register(ctx, "", "", "openai", "his", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9997", false)
		require.ErrorIs(t, err, agentrouter.ErrPermissionDenied)
		require.Equal(t, http.StatusUnauthorized, s.get(s.api+"/v1/whoami", "").status)
		made := call(t, http.MethodPost, s.api+"/v1/tokens", "any", `{"name": "laptop"}`)
		_, token, _ := strings.Cut(made.body, `"api_key":"`)
		token, _, _ = strings.Cut(token, `"`)
		id := strings.Split(token, "_")[1]
		require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", token).status)
		require.Equal(t, http.StatusOK, call(t, http.MethodDelete, s.api+"/v1/tokens/"+id, "any", "").status)
		require.Eventually(t, func() bool { return s.get(s.api+"/v1/whoami", token).status == http.StatusUnauthorized }, patience, 10*time.Millisecond)
	})
	t.Run("it answers with an example on request, and lists them", func(t *testing.T) {
		_, err := s.sdk("any").With(agentrouter.Header("Prefer", "example=quota_exceeded")).AIKeys().Register(
			ctx, "", "", "openai", "mine", "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9996", false)
		var refused *agentrouter.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "/problems/quota-exceeded", refused.Type)
		index := s.get(s.api+"/", "")
		require.Contains(t, index.body, "409&nbsp;quota_exceeded")
		require.Contains(t, s.get(s.api+"/openapi.yaml", "").body, "- url: "+s.api)
	})
	t.Run("only the origins that are named may call", func(t *testing.T) {
		for from, allowed := range map[string]string{origin: origin, "http://localhost:3000": ""} {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.api+"/v1/aikeys", nil)
			require.NoError(t, err)
			r.Header.Set("Origin", from)
			answer, err := client.Do(r)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, allowed, answer.Header.Get("Access-Control-Allow-Origin"))
		}
	})
	t.Run("the commands that it prints work", func(t *testing.T) {
		_, commands, _ := strings.Cut(s.stdout.String(), "another terminal:\n")
		commands, _, _ = strings.Cut(commands, "Then point")
		cmd := exec.CommandContext(ctx, "bash", "-c", `curl() { command curl -o /dev/null -w '%{http_code} ' "$@"; }`+"\nset -e\n"+commands)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		printed, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "200 201 403 ", string(printed))
	})
	before, err := keys.List(ctx, "", "")
	require.NoError(t, err)
	require.Equal(t, exitOK, s.wait())
	again := startDev(t, data, "--mock")
	after, err := again.sdk("any").AIKeys().List(ctx, "", "")
	require.NoError(t, err)
	require.Len(t, after.Keys, len(before.Keys))
	require.Equal(t, exitOK, again.wait())
}
