package dataplane_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// callers is a header full of a caller's credentials, and one that is none.
func callers() http.Header {
	h := http.Header{
		"X-Request-Id": {"1"}, "x-api-key": {"not canonical"}, "Authorization": {"Bearer theirs", "Basic theirs"},
	}
	for _, name := range []string{"X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Proxy-Authorization", "Cookie"} {
		h.Set(name, "theirs")
	}
	return h
}

func TestAuthorizeSwapsTheCallersCredentialsForTheKeysHeader(t *testing.T) {
	s := newScene(t)
	for style, want := range map[dataplane.AuthStyle]http.Header{
		dataplane.AuthBearer:      {"Authorization": {"Bearer sk-1"}, "X-Request-Id": {"1"}},
		dataplane.AuthXAPIKey:     {"X-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		dataplane.AuthXGoogAPIKey: {"X-Goog-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		dataplane.AuthAPIKey:      {"Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
	} {
		key, err := s.resolve(dataplane.ByID(s.register(dataplanetest.Key{Secret: "sk-1", AuthStyle: string(style)})))
		require.NoError(t, err)
		h := callers()
		require.NoError(t, key.Authorize(h))
		require.Equal(t, want, h)
		name, value, err := key.Header()
		require.NoError(t, err)
		require.Equal(t, []string{value}, want[name])
		require.Equal(t, "sk-1", key.Secret().Reveal())
	}
	for _, style := range []dataplane.AuthStyle{dataplane.AuthAWSSigV4, dataplane.AuthGCPOAuth, "magic"} {
		key, err := s.resolve(dataplane.ByID(s.register(dataplanetest.Key{Secret: "{}", AuthStyle: string(style)})))
		require.NoError(t, err)
		h := callers()
		require.ErrorIs(t, key.Authorize(h), dataplane.ErrUnsupportedAuth)
		require.Equal(t, http.Header{"X-Request-Id": {"1"}}, h)
		_, _, err = key.Header()
		require.ErrorIs(t, err, dataplane.ErrUnsupportedAuth)
	}
}

func TestAKeySaysWhatItIsAndWhomItServes(t *testing.T) {
	s := newScene(t)
	s.AddCredential(credential, dataplanetest.Credential{})
	id := s.register(dataplanetest.Key{UserID: "alice", BaseURL: "https://eu.example.com/v1"})
	key, err := s.resolve(forCaller)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	require.Equal(t, 1, key.Version)
	require.Equal(t, []string{"acme", "chat", "openai"}, []string{key.CustomerID, key.ProjectID, key.Provider})
	require.Equal(t, []string{"user", "user_key"}, []string{key.Scope, key.Reason})
	require.Equal(t, "https://eu.example.com/v1", key.BaseURL)
	require.Equal(t, "alice", key.Caller.UserID)
	require.Len(t, key.Caller.TokenID, 26)
	byID, err := s.resolve(dataplane.ByID(id))
	require.NoError(t, err)
	require.Nil(t, byID.Caller)
}

func TestACallersOtherProjectIsServedForItself(t *testing.T) {
	s := newScene(t)
	s.AddCredential(credential, dataplanetest.Credential{})
	chat := s.RegisterKey(dataplanetest.Key{})
	mail := s.RegisterKey(dataplanetest.Key{ProjectID: "mail"})
	s.applied(s.SetMember("acme", "mail", "alice"))
	inMail := forCaller
	inMail.ProjectID = "mail"
	s.serves(forCaller, chat)
	s.serves(inMail, mail)
}
