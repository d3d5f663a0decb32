package dataplane_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/secret"
)

// callers returns a header with every kind of caller's credential, and X-Request-Id.
func callers() http.Header {
	h := http.Header{
		"X-Request-Id": {"1"}, "x-api-key": {"not canonical"}, "Authorization": {"Bearer theirs", "Basic theirs"},
	}
	for _, name := range []string{"X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Proxy-Authorization", "Cookie"} {
		h.Set(name, "theirs")
	}
	return h
}

func TestAuthorize(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	for style, want := range map[dataplane.AuthStyle]http.Header{
		dataplane.AuthBearer:      {"Authorization": {"Bearer sk-1"}, "X-Request-Id": {"1"}},
		dataplane.AuthXAPIKey:     {"X-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		dataplane.AuthXGoogAPIKey: {"X-Goog-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		dataplane.AuthAPIKey:      {"Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
	} {
		key, err := s.R.Resolve(t.Context(), dataplane.ByID(s.Register(dataplanetest.Key{Secret: "sk-1", AuthStyle: string(style)})))
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
		key, err := s.R.Resolve(t.Context(), dataplane.ByID(s.Register(dataplanetest.Key{Secret: "{}", AuthStyle: string(style)})))
		require.NoError(t, err)
		h := callers()
		require.ErrorIs(t, key.Authorize(h), dataplane.ErrUnsupportedAuth)
		require.Equal(t, http.Header{"X-Request-Id": {"1"}}, h)
		_, _, err = key.Header()
		require.ErrorIs(t, err, dataplane.ErrUnsupportedAuth)
	}
}

func TestAuthorizeOnRoutes(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	key, err := s.R.Resolve(t.Context(), dataplane.ByID(s.Register(dataplanetest.Key{
		Secret: "sk-1", AuthStyle: "x_goog_api_key",
		Routes: []gen.Route{{Path: "/v1", AuthStyle: "x_goog_api_key"}, {Path: "/v1/openai", AuthStyle: "bearer"}, {Path: "/new", AuthStyle: "magic"}},
	})))
	require.NoError(t, err)
	for path, want := range map[string]http.Header{
		"":                {"X-Goog-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		"/v1beta/models":  {"X-Goog-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		"/v1/models":      {"X-Goog-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
		"/v1/openai":      {"Authorization": {"Bearer sk-1"}, "X-Request-Id": {"1"}},
		"/v1/openai/chat": {"Authorization": {"Bearer sk-1"}, "X-Request-Id": {"1"}},
		"/v1/openais":     {"X-Goog-Api-Key": {"sk-1"}, "X-Request-Id": {"1"}},
	} {
		h := callers()
		require.NoError(t, key.AuthorizeAt(h, path))
		require.Equal(t, want, h, path)
	}
	require.ErrorIs(t, key.AuthorizeAt(callers(), "/new/x"), dataplane.ErrUnsupportedAuth)
}

// A style that this release does not know is served if the answer says what to put on the request.
func TestAuthorizeWithInjectedHeaders(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	resolve := func(inject ...gen.InjectedHeader) *dataplane.Key {
		key, err := s.R.Resolve(t.Context(), dataplane.ByID(s.Register(dataplanetest.Key{Secret: "t-1", AuthStyle: "magic", Inject: inject})))
		require.NoError(t, err)
		return key
	}
	own := gen.InjectedHeader{Name: "Authorization", Value: secret.New("Magic t-1"), Mode: "set"}
	beta := gen.InjectedHeader{Name: "x-request-id", Value: secret.New("2"), Mode: "append"}
	key, h := resolve(own), callers()
	require.NoError(t, key.Authorize(h))
	require.Equal(t, http.Header{"Authorization": {"Magic t-1"}, "X-Request-Id": {"1"}}, h)
	name, value, err := key.Header()
	require.NoError(t, err)
	require.Equal(t, []string{"Authorization", "Magic t-1"}, []string{name, value})
	require.NotContains(t, fmt.Sprintf("%+v %#v", key, key), "t-1")

	key, h = resolve(own, beta), callers()
	require.NoError(t, key.Authorize(h))
	require.Equal(t, http.Header{"Authorization": {"Magic t-1"}, "X-Request-Id": {"1", "2"}}, h)
	_, _, err = key.Header()
	require.ErrorIs(t, err, dataplane.ErrUnsupportedAuth, "another proxy sets one header")
}

func TestRoutesNameHosts(t *testing.T) {
	key := dataplane.Key{Routes: []dataplane.Route{
		{Path: "/v1"}, {Path: "/v1/projects/*/locations/*", Host: "*-ai.example"}, {Path: "/v1/projects/*/locations/global", Host: "ai.example"},
	}}
	for path, want := range map[string]string{
		"/v1/models": "", "/v1/projects/p/locations": "", "/v2/projects/p/locations/us": "", "/v1/projects//locations/us": "",
		"/v1/projects/p/locations/us": "us-ai.example", "/v1/projects/p/locations/europe-west1/x": "europe-west1-ai.example",
		"/v1/projects/p/locations/global/x": "ai.example", "/v1/projects/locations/locations/us": "us-ai.example",
	} {
		host, ok := key.HostAt(path)
		require.True(t, ok, path)
		require.Equal(t, want, host, path)
	}
	for _, location := range []string{"US", "a.evil.example", "evil.example%2f", "a%2eb", "-a", "a-", "a_b", "a:80", "a@b", "*", strings.Repeat("a", 64)} {
		_, ok := key.HostAt("/v1/projects/p/locations/" + location + "/models")
		require.False(t, ok, location)
	}
}

func TestKeyFields(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.AddCredential(credential, dataplanetest.Credential{})
	id := s.Register(dataplanetest.Key{UserID: "alice", BaseURL: "https://eu.example.com/v1"})
	key, err := s.R.Resolve(t.Context(), forCaller)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	require.Equal(t, 1, key.Version)
	require.Equal(t, []string{"acme", "chat", "openai"}, []string{key.CustomerID, key.ProjectID, key.Provider})
	require.Equal(t, []string{"user", "user_key"}, []string{key.Scope, key.Reason})
	require.Equal(t, "https://eu.example.com/v1", key.BaseURL)
	require.Equal(t, "alice", key.Caller.UserID)
	require.Len(t, key.Caller.TokenID, 26)
	byID, err := s.R.Resolve(t.Context(), dataplane.ByID(id))
	require.NoError(t, err)
	require.Nil(t, byID.Caller)
}

func TestForCallerInAnotherProject(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.AddCredential(credential, dataplanetest.Credential{})
	chat := s.RegisterKey(dataplanetest.Key{})
	mail := s.RegisterKey(dataplanetest.Key{ProjectID: "mail"})
	s.AwaitTx(s.SetMember("mail", "alice"))
	inMail := forCaller
	inMail.ProjectID = "mail"
	s.Serves(forCaller, chat)
	s.Serves(inMail, mail)
}

func TestNothingSecretIsPrinted(t *testing.T) {
	const marked = "MARKED-SECRET"
	var log dataplanetest.Log
	registry := prometheus.NewRegistry()
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) {
		cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Metrics = registry
	})
	caller := "ak_" + marked
	s.AddCredential(caller, dataplanetest.Credential{})
	s.Register(dataplanetest.Key{Secret: "sk-" + marked})
	req := dataplane.ForCaller(caller, "openai")
	key, err := s.R.Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Contains(t, key.Secret().Reveal(), marked)
	require.Equal(t, "[redacted]", fmt.Sprint(key.Secret()))

	cfg := s.Config()
	cfg.Token = func() string { return "dp_" + marked }
	values := []any{key, *key, req, &req, cfg, &cfg, s.R.Status(), s.R}
	refused := []dataplane.Request{
		{Credential: caller, Provider: "openai", KeyID: marked[:6]},
		dataplane.ForCaller(marked, "openai"),
	}
	for name, fault := range faults() {
		s.SetFault(fault, dataplanetest.Fetch)
		if fault == dataplanetest.Hanging {
			continue
		}
		refused = append(refused, dataplane.ForCaller(marked+name, "openai"))
		s.Clock.Advance(dataplane.DownFor)
		_, err := s.R.Resolve(t.Context(), refused[len(refused)-1])
		require.ErrorIs(t, err, dataplane.ErrUnavailable)
		values = append(values, err)
	}
	s.SetFault(dataplanetest.Healthy)
	for _, req := range refused {
		_, err := s.R.Resolve(t.Context(), req)
		require.Error(t, err)
		values = append(values, err)
	}
	wrong := cfg
	wrong.Token = func() string { return "dp_" + marked + "\nx" } // not valid in a header
	r, err := dataplane.New(wrong)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), req)
	require.Error(t, err)
	values = append(values, err)
	wrong.ControlPlane = "http://user:" + marked + "@127.0.0.1"
	_, err = dataplane.New(wrong)
	require.Error(t, err)
	values = append(values, err)
	for _, v := range values {
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+verb+verb+"\n", v, []any{v}, struct{ V any }{v})
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		if document, err := json.Marshal(v); err == nil {
			out.Write(document)
		}
		require.NotContains(t, out.String(), marked, "%T", v)
		require.NotContains(t, out.String(), fmt.Sprintf("%x", marked), "%T", v)
	}
	s.Send("data: " + marked + "\n\n")
	s.AwaitStream(2)
	require.NotEmpty(t, log.String())
	require.NotContains(t, log.String(), marked)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(families), marked)
}

func TestADisabledKeyServesAgainOnceEnabled(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, id)
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	s.Refuses(forNobody, dataplane.ErrKeyDisabled)
	s.Refuses(dataplane.ByID(id), dataplane.ErrKeyDisabled)
	s.Fetches(0, func() { s.Refuses(forNobody, dataplane.ErrKeyDisabled) })
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, false))
	s.Serves(forNobody, id)
	s.Serves(dataplane.ByID(id), id)
}

// Transactions commit out of order, so the message that disables a key may come after the one that enables it again.
func TestAnOlderDisableEndsNoLaterUse(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.SetFault(dataplanetest.InternalError, dataplanetest.Events)
	s.Cut()
	dataplanetest.Eventually(t, "no stream", func() bool { return !s.R.Status().Connected })
	s.SetDisabledIn(s.Begin(), id, true)
	enabled := s.SetDisabledIn(s.Begin(), id, false)
	key, err := s.R.Resolve(t.Context(), forNobody) // the answer includes both changes
	require.NoError(t, err)
	ended := make(chan bool, 10)
	t.Cleanup(s.R.Watch(key, func(certain bool) { ended <- certain }))
	s.SetFault(dataplanetest.Healthy)
	s.AwaitTx(enabled) // the resolver has read both messages
	require.Empty(t, ended)
	s.Serves(forNobody, id)
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	require.True(t, <-ended)
}

func TestAnAnswerFromBeforeADisableIsNotUsed(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait() // the answer has the key
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	hold.Release()
	require.ErrorIs(t, (<-result).Err, dataplane.ErrKeyDisabled)
}

func TestARefusalFromBeforeAnEnableIsNotUsed(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{})
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
	hold := s.HoldAnswers()
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait() // the answer is a refusal
	s.AwaitTx(s.SetDisabledIn(s.Begin(), id, false))
	hold.Release()
	got := <-result
	require.NoError(t, got.Err)
	require.Equal(t, id, got.Key.ID)
}

// A key ends at its expiry without any message or lease, and no grace prolongs it.
func TestAKeyEndsAtItsTimeWithoutAStream(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.MaxAge, cfg.MaxStale = 24*time.Hour, time.Hour })
	id := s.Register(dataplanetest.Key{Ends: 10 * time.Minute})
	s.Serves(forNobody, id)
	s.SetFault(dataplanetest.Unavailable)
	s.Cut()
	dataplanetest.Eventually(t, "no stream", func() bool { return !s.R.Status().Connected })
	s.Clock.Advance(10*time.Minute - time.Millisecond)
	s.Serves(forNobody, id)
	s.Clock.Advance(time.Millisecond)
	s.Refuses(forNobody, dataplane.ErrUnavailable)
	s.SetFault(dataplanetest.Healthy)
	s.Clock.Advance(time.Second)
	s.Refuses(forNobody, dataplane.ErrKeyExpired)
}

func TestAnExtendedKeyServesAgain(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	id := s.Register(dataplanetest.Key{Ends: time.Minute})
	s.Serves(forNobody, id)
	s.Clock.Advance(time.Minute)
	s.AwaitLease()
	s.Refuses(forNobody, dataplane.ErrKeyExpired)
	s.AwaitTx(s.SetExpiry(id, time.Minute))
	s.Serves(forNobody, id)
	s.AwaitTx(s.SetExpiry(id, 0))
	s.Clock.Advance(2 * time.Minute)
	s.AwaitLease()
	s.Serves(forNobody, id)
}

// The clock stands still. So when a use's timer fires, the key has not expired yet, and the use asks again until the
// test moves the clock.
func TestAUseEndsWithItsKeysTime(t *testing.T) {
	const life = 20 * time.Millisecond
	watched := func(t *testing.T) (s *dataplanetest.Env, id string, ended chan bool) {
		t.Helper()
		s = dataplanetest.NewEnv(t)
		id = s.Register(dataplanetest.Key{Ends: life})
		key, err := s.R.Resolve(t.Context(), forNobody)
		require.NoError(t, err)
		ended = make(chan bool, 10)
		t.Cleanup(s.R.Watch(key, func(certain bool) { ended <- certain }))
		return s, id, ended
	}
	asksAgain := func(s *dataplanetest.Env) {
		before := s.Count(dataplanetest.Fetch)
		dataplanetest.Eventually(t, "it asks for the key by its id", func() bool { return s.Count(dataplanetest.Fetch) > before })
	}
	t.Run("at its time", func(t *testing.T) {
		s, _, ended := watched(t)
		asksAgain(s)
		require.Empty(t, ended)
		s.Clock.Advance(life)
		require.True(t, <-ended)
	})
	t.Run("without an answer", func(t *testing.T) {
		s, _, ended := watched(t)
		s.SetFault(dataplanetest.Unavailable)
		s.Cut()
		s.Clock.Advance(life)
		require.True(t, <-ended)
	})
	t.Run("at its later time", func(t *testing.T) {
		s, id, ended := watched(t)
		s.AwaitTx(s.SetExpiry(id, 2*life))
		s.Clock.Advance(life)
		asksAgain(s)
		require.Empty(t, ended)
		s.Clock.Advance(life)
		require.True(t, <-ended)
	})
	t.Run("never, if it has none any longer", func(t *testing.T) {
		s, id, ended := watched(t)
		s.SetExpiry(id, 0)
		asksAgain(s)
		s.Clock.Advance(life)
		s.Sync()
		require.Empty(t, ended)
		s.AwaitTx(s.SetDisabledIn(s.Begin(), id, true))
		require.True(t, <-ended)
	})
}

func TestRestrictedKeysAreForProgramsThatEnforceThem(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.RegisterKey(dataplanetest.Key{Restrict: &gen.Restrictions{Models: []string{"gpt-4o", "o1*"}}})
	cfg := cp.Config()
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrNoKey)
	cfg.Restrictions = true
	r, err = dataplane.New(cfg)
	require.NoError(t, err)
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	for model, allowed := range map[string]bool{"gpt-4o": true, "gpt-4o-mini": false, "o1": true, "o1-pro": true, "O1": false, "": false} {
		require.Equal(t, allowed, key.Restrictions.AllowsModel(model), model)
	}
}
