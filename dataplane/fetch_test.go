package dataplane_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/secret"
)

func TestIncompleteOrMismatchedAnswers(t *testing.T) {
	good := gen.FetchResponse{
		KeyID: "byok_1", Version: 1, CustomerID: "acme", ProjectID: "chat", Provider: "openai", Scope: "project",
		Reason: "project_key", Secret: secret.New("sk"), BaseURL: "https://x", AuthStyle: "bearer", AsOf: "1:1:",
	}
	var answer gen.FetchResponse
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer server.Close()
	r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, Token: func() string { return "x" }})
	require.NoError(t, err)
	answer = good
	_, err = r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	for name, spoil := range map[string]func(){
		"another customer":   func() { answer.CustomerID = "other" },
		"another project":    func() { answer.ProjectID = "other" },
		"another provider":   func() { answer.Provider = "anthropic" },
		"no key's id":        func() { answer.KeyID = "" },
		"no secret":          func() { answer.Secret = secret.Text{} },
		"nowhere to go":      func() { answer.BaseURL = "" },
		"a position of none": func() { answer.AsOf = "later" },
		"no version":         func() { answer.Version = 0 },
	} {
		answer = good
		spoil()
		_, err := r.Resolve(t.Context(), forNobody)
		require.ErrorIs(t, err, dataplane.ErrUnavailable, name)
	}
	answer = good
	_, err = r.Resolve(t.Context(), dataplane.ByID("byok_2"))
	require.ErrorIs(t, err, dataplane.ErrUnavailable)
}

func TestFetchTimeout(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.FetchTimeout = 100 * time.Millisecond })
	s.SetFault(dataplanetest.Hanging, dataplanetest.Fetch)
	s.Refuses(forNobody, dataplane.ErrUnavailable)
}

func TestAnswerSlowerThanALease(t *testing.T) {
	s, id := newCachedEnv(t)
	s.LoseLease()
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait(1)
	s.Clock.Advance(time.Second + time.Millisecond)
	s.Fetches(1, func() { // it is fetched again
		hold.Release()
		require.Equal(t, id, (<-result).Key.ID)
	})
}

func TestCredentialExpiresDuringFetch(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.RegisterKey(dataplanetest.Key{})
	s.AddCredential(credential, dataplanetest.Credential{Session: true, Valid: time.Second})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forCaller)
	hold.Wait(1)
	s.Clock.Advance(time.Second)
	hold.Release()
	require.ErrorIs(t, (<-result).Err, dataplane.ErrCallerUnauthenticated)
}
