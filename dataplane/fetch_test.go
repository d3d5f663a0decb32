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
	hold.Wait()
	s.Clock.Advance(time.Second + time.Millisecond)
	s.Fetches(1, func() { // the answer is fetched again
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
	hold.Wait()
	s.Clock.Advance(time.Second)
	hold.Release()
	require.ErrorIs(t, (<-result).Err, dataplane.ErrCallerUnauthenticated)
}

func TestPauseAfterAFailure(t *testing.T) {
	s, id := newCachedEnv(t, maxStale(time.Minute))
	s.LoseLease()
	s.SetFault(dataplanetest.Unavailable, dataplanetest.Fetch)
	s.Fetches(1, func() {
		s.Serves(forNobody, id)
		s.Serves(forNobody, id)
		s.Refuses(forAlice, dataplane.ErrUnavailable)
	})
	s.Clock.Advance(dataplane.DownFor)
	s.Fetches(1, func() { s.Serves(forNobody, id) })
}

// Otherwise strangers with made-up session tokens could stop all fetches.
func TestUncheckableTokenIsNotAFailure(t *testing.T) {
	for fault, passes := range map[dataplanetest.Fault]bool{dataplanetest.IssuerUnavailable: true, dataplanetest.Unavailable: false} {
		s := dataplanetest.NewEnv(t)
		s.RegisterKey(dataplanetest.Key{})
		s.SetFault(fault, dataplanetest.Fetch)
		_, err := s.R.Resolve(t.Context(), forCaller)
		require.ErrorIs(t, err, dataplane.ErrUnavailable)
		s.SetFault(dataplanetest.Healthy)
		_, err = s.R.Resolve(t.Context(), forNobody) // the clock stands still
		require.Equal(t, passes, err == nil, "%v", err)
	}
}

// After an outage in which a revocation was missed, a use causes a fetch. The fetch is sent as soon as the stream is
// back, without the pause after a failure.
func TestFetchOnceTheStreamIsBack(t *testing.T) {
	s := dataplanetest.NewEnv(t, maxStale(time.Minute))
	older := s.Register(dataplanetest.Key{})
	newest := s.Register(dataplanetest.Key{})
	s.Serves(forNobody, newest)
	s.SetFault(dataplanetest.Unavailable)
	s.Cut()
	s.AwaitDisconnect()
	s.Clock.Advance(2 * time.Second)
	s.Fetches(1, func() { s.Serves(forNobody, newest) }) // the fetch fails, and the pause begins
	s.Fetches(0, func() { s.Serves(forNobody, newest) })
	tx := s.RevokeKey(newest)
	s.SetFault(dataplanetest.Healthy)
	s.AwaitTx(tx)
	s.Serves(forNobody, older)
}

// newRefusedEnv returns an environment whose control plane has refused the data plane's credential. by is the operation
// that was refused: a fetch or the stream. The cache has a key that is still within MaxStale.
func newRefusedEnv(t *testing.T, by dataplanetest.Operation) (s *dataplanetest.Env, id string) {
	t.Helper()
	s, id = newCachedEnv(t, maxStale(time.Hour), fast)
	if by == dataplanetest.Fetch {
		s.SetFault(dataplanetest.Unavailable, dataplanetest.Events)
	}
	s.SetToken("another")
	s.Clock.Advance(2 * time.Second)
	if by == dataplanetest.Fetch {
		s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	}
	dataplanetest.Eventually(t, "the refusal is noticed", func() bool { return s.R.Status().Unauthenticated })
	return s, id
}

// After many refusals the control plane answers 429 to this address, and later it may not answer at all. Neither restores
// the grace that the refusal ended.
func TestNoGraceAfterARefusal(t *testing.T) {
	for _, by := range []dataplanetest.Operation{dataplanetest.Fetch, dataplanetest.Events} {
		for name, fault := range faults() {
			t.Run(name, func(t *testing.T) {
				s, _ := newRefusedEnv(t, by)
				s.SetFault(fault)
				for range 3 {
					s.Clock.Advance(5 * time.Second)
					s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
				}
				status := s.R.Status()
				require.True(t, status.Unauthenticated)
				require.Zero(t, status.GraceRemaining)
			})
		}
	}
}

func TestGraceAfterAcceptance(t *testing.T) {
	for _, by := range []dataplanetest.Operation{dataplanetest.Fetch, dataplanetest.Events} {
		s, id := newRefusedEnv(t, by)
		s.SetToken(dataplanetest.Token)
		s.SetFault(dataplanetest.Healthy)
		s.Clock.Advance(dataplane.RefusedFor)
		s.Serves(forNobody, id)
		dataplanetest.Eventually(t, "the credential is good", func() bool { return s.R.Status().Leased })
		s.Serves(forNobody, id)
		s.SetFault(dataplanetest.Unavailable)
		s.LoseLease()
		s.Serves(forNobody, id)
	}
}

func TestARefusedDataPlaneServesNobody(t *testing.T) {
	for by, refuse := range map[string]func(s *dataplanetest.Env){
		"in answer to the stream": func(s *dataplanetest.Env) { s.SetToken("another") },
		"with a 403": func(s *dataplanetest.Env) {
			s.SetFault(dataplanetest.CustomerNotServed, dataplanetest.Events)
			s.SetToken("another")
		},
		"in answer to a fetch, while the stream goes on": func(s *dataplanetest.Env) {
			s.SetFault(dataplanetest.Unauthenticated, dataplanetest.Fetch, dataplanetest.Events)
			s.Refuses(forAlice, dataplane.ErrDataPlaneUnauthenticated)
		},
	} {
		t.Run(by, func(t *testing.T) {
			s, _ := newCachedEnv(t, maxStale(time.Hour), dataplane.WithIntervals(0, 0, 0, time.Millisecond))
			key, err := s.R.Resolve(t.Context(), forNobody)
			require.NoError(t, err)
			ended := make(chan bool, 100)
			s.R.Watch(key, func(certain bool) { ended <- certain })
			refuse(s)
			for certain := false; !certain; { // the first call may come from a stream that resumes nothing
				select {
				case certain = <-ended:
				case <-time.After(10 * time.Second):
					t.Fatal("the use goes on")
				}
			}
			require.True(t, s.R.Status().Unauthenticated)
			s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
			require.False(t, s.R.Status().Leased, "although the clock stands still")
			late := make(chan bool, 1)
			s.R.Watch(key, func(certain bool) { late <- certain })
			require.True(t, <-late, "it was resolved before the refusal")
			s.SetToken(dataplanetest.Token)
			s.SetFault(dataplanetest.Healthy)
			dataplanetest.Eventually(t, "a lease with the new credential", func() bool { return s.R.Status().Leased })
			s.Clock.Advance(dataplane.RefusedFor)
			s.Serves(forNobody, key.ID)
		})
	}
}

// roundTripper is a function that sends requests.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A credential is rotated while the answer to a request with the old one is on its way.
func TestALateRefusalOfAnOldCredentialIsIgnored(t *testing.T) {
	refused, release := make(chan struct{}), make(chan struct{})
	s, _ := newCachedEnv(t, func(cfg *dataplane.Config) {
		cfg.FetchTimeout = 10 * time.Second
		cfg.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			response, err := http.DefaultTransport.RoundTrip(r)
			if err == nil && response.StatusCode == http.StatusUnauthorized {
				close(refused)
				<-release
			}
			return response, err
		})}
	})
	s.SetFault(dataplanetest.Unauthenticated, dataplanetest.Fetch)
	old := s.ResolveAsync(t.Context(), forAlice)
	<-refused
	s.SetFault(dataplanetest.Healthy)
	s.Clock.Advance(time.Millisecond)
	key, err := s.R.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "", "openai"))
	require.NoError(t, err)
	_, err = s.R.Resolve(t.Context(), dataplane.ByID(key.ID)) // this request is sent later, and accepted
	require.NoError(t, err)
	close(release)
	require.ErrorIs(t, (<-old).Err, dataplane.ErrDataPlaneUnauthenticated)
	require.False(t, s.R.Status().Unauthenticated)
	s.Fetches(0, func() { s.Serves(forNobody, key.ID) })
}

// Refused requests count against their address, which other data planes may share.
func TestPauseAfterARefusal(t *testing.T) {
	s, _ := newRefusedEnv(t, dataplanetest.Events)
	s.SetFault(dataplanetest.Hanging, dataplanetest.Events) // the stream must not send the credential either
	s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated)
	s.Fetches(0, func() {
		for range 5 {
			s.Clock.Advance(dataplane.DownFor)
			s.Refuses(forAlice, dataplane.ErrDataPlaneUnauthenticated)
		}
	})
	s.Clock.Advance(dataplane.RefusedFor)
	s.Fetches(1, func() { s.Refuses(forNobody, dataplane.ErrDataPlaneUnauthenticated) })
}

func TestHTTPClientFromConfig(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	id := cp.RegisterKey(dataplanetest.Key{})
	client := &http.Client{Transport: &http.Transport{}, Timeout: 50 * time.Millisecond}
	r := cp.Resolver(t, func(cfg *dataplane.Config) { cfg.HTTPClient = client })
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	require.Equal(t, id, key.ID)
	timeout, ok := dataplane.StreamTimeout(r)
	require.True(t, ok)
	require.Zero(t, timeout, "the client's timeout does not apply to the stream")
	client.CloseIdleConnections()
}

func TestClientCertificateNeedsHTTPS(t *testing.T) {
	for url, ok := range map[string]bool{"https://127.0.0.1:1": true, "http://127.0.0.1:1": false} {
		_, err := dataplane.New(dataplane.Config{ControlPlane: url, HTTPClient: &http.Client{}})
		require.Equal(t, ok, err == nil, url)
	}
	_, err := dataplane.New(dataplane.Config{ControlPlane: "https://127.0.0.1:1"})
	require.ErrorContains(t, err, "Token: is required")

	asked := make(chan http.Header, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header }))
	defer server.Close()
	r, err := dataplane.New(dataplane.Config{ControlPlane: server.URL, HTTPClient: server.Client()})
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrUnavailable)
	require.NotContains(t, <-asked, "Authorization")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.RegisterKey(dataplanetest.Key{})
	server := httptest.NewServer(http.RedirectHandler(cp.URL()+"/v1/fetch", http.StatusTemporaryRedirect))
	defer server.Close()
	cfg := cp.Config()
	cfg.ControlPlane = server.URL
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrUnavailable)
	require.Zero(t, cp.Count(dataplanetest.Fetch))
}
