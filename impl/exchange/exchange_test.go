package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/secret"
)

// service answers as token services do.
type service func(*http.Request) (status int, body string)

// RoundTrip implements http.RoundTripper. Like a connection, it fails when the request's context ends.
func (s service) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := s(r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Location": {"https://evil.example/"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// at returns a credential that is exchanged at a host.
func at(host string) *providers.Credential {
	return &providers.Credential{Grant: &providers.Grant{URL: "https://" + host + "/token", Form: secret.New("client_secret=EXAMPLE-ROOT")}}
}

func TestTokenIsSharedForFourFifthsOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made atomic.Int64
		x := New(service(func(r *http.Request) (int, string) {
			body, _ := io.ReadAll(r.Body)
			if string(body) != "client_secret=EXAMPLE-ROOT" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
				return http.StatusBadRequest, ""
			}
			time.Sleep(time.Second)
			return http.StatusOK, fmt.Sprintf(`{"access_token": "t%d", "token_type": "Bearer", "expires_in": 1000}`, made.Add(1))
		}))
		began := time.Now()
		fetch := func(token string) {
			c := at("a.example")
			if err := x.Complete(t.Context(), "k:1", c); err != nil || c.Secret != token || c.Life > 1000*time.Second {
				t.Errorf("%v %q %v", err, c.Secret, c.Life)
			}
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { fetch("t1") })
		}
		all.Wait()
		time.Sleep(time.Until(began.Add(799 * time.Second)))
		late := at("a.example")
		require.NoError(t, x.Complete(t.Context(), "k:1", late))
		require.Equal(t, []any{"t1", 201 * time.Second, time.Second}, []any{late.Secret, late.Life, late.Refresh}, "refreshed with all others")
		time.Sleep(time.Second)
		for range 3 {
			all.Go(func() { fetch("t2") })
		}
		all.Wait()
		require.NoError(t, x.Complete(t.Context(), "k:2", at("a.example")))
		require.EqualValues(t, 3, made.Load(), "another version of the key has another token")
	})
}

func TestHangingServiceHoldsUpNoOtherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		x := New(service(func(r *http.Request) (int, string) {
			if r.URL.Host == "hangs.example" {
				asked.Add(1)
				<-r.Context().Done()
			}
			return http.StatusOK, `{"access_token": "t", "expires_in": 3600}`
		}))
		began := time.Now()
		var all sync.WaitGroup
		for i := range 10 * maxAtOnce {
			all.Go(func() {
				if err := x.Complete(t.Context(), fmt.Sprint(i), at("hangs.example")); !errors.Is(err, ErrUnavailable) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		require.EqualValues(t, maxAtOnce, asked.Load())
		require.NoError(t, x.Complete(t.Context(), "other", at("works.example")))
		require.Equal(t, began, time.Now())
		all.Wait()
		require.Equal(t, maxWait, time.Since(began))
		time.Sleep(timeout)
		ended, before := time.Now(), asked.Load()
		for range 100 {
			require.ErrorIs(t, x.Complete(t.Context(), "0", at("hangs.example")), ErrUnavailable)
		}
		require.Equal(t, ended, time.Now(), "nobody waits after a failure")
		require.Equal(t, before, asked.Load())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, x.Complete(ctx, "new", at("hangs.example")), context.Canceled)
		time.Sleep(2 * timeout) // exchanges under way end
	})
}

func TestTokenServesWhileItsServiceIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		x := New(service(func(*http.Request) (int, string) {
			if down {
				return http.StatusServiceUnavailable, `{"error": "temporarily_unavailable"}`
			}
			return http.StatusOK, `{"access_token": "t", "expires_in": "100"}`
		}))
		fetch := func() (*providers.Credential, error) {
			c := at("a.example")
			return c, x.Complete(t.Context(), "k:1", c)
		}
		_, err := fetch()
		require.NoError(t, err)
		down = true
		time.Sleep(90 * time.Second)
		c, err := fetch()
		require.NoError(t, err)
		require.Equal(t, []any{"t", 10 * time.Second, 8 * time.Second}, []any{c.Secret, c.Life, c.Refresh})
		time.Sleep(10 * time.Second)
		_, err = fetch()
		require.ErrorIs(t, err, ErrUnavailable, "it has expired")
		down = false
		time.Sleep(unavailablePause)
		_, err = fetch()
		require.NoError(t, err)
	})
}

func TestRefusalEndsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refuses bool
		var asked int
		x := New(service(func(*http.Request) (int, string) {
			asked++
			if refuses {
				return http.StatusUnauthorized, `{"error": "invalid_client", "error_description": "AADSTS7000215: EXAMPLE-ROOT"}`
			}
			return http.StatusOK, `{"access_token": "t", "expires_in": 100}`
		}))
		require.NoError(t, x.Complete(t.Context(), "k:1", at("a.example")))
		refuses = true
		time.Sleep(80 * time.Second)
		for range 3 {
			err := x.Complete(t.Context(), "k:1", at("a.example"))
			require.ErrorIs(t, err, ErrRefused)
			require.EqualError(t, err, "the cloud's token service refuses the credential: invalid_client")
		}
		require.Equal(t, 2, asked)
		refuses = false
		time.Sleep(refusedPause)
		require.NoError(t, x.Complete(t.Context(), "k:1", at("a.example")))
	})
}

func TestAnswersOfTokenServices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
		want   error
	}{
		{http.StatusOK, `{"access_token": "t", "expires_in": 3599, "ext_expires_in": 3599}`, nil},
		{http.StatusOK, `{"access_token": "t", "expires_in": 999999999999}`, nil},
		{http.StatusOK, `{"access_token": "t"}`, ErrUnavailable},
		{http.StatusOK, `{"access_token": "t", "expires_in": -1}`, ErrUnavailable},
		{http.StatusOK, `{"access_token": "t", "expires_in": 1.5}`, ErrUnavailable},
		{http.StatusOK, `{"access_token": "t\r\nX-Evil: 1", "expires_in": 3599}`, ErrUnavailable},
		{http.StatusOK, `{"access_token": "", "expires_in": 3599}`, ErrUnavailable},
		{http.StatusOK, `{"access_token": "` + strings.Repeat("t", maxToken+1) + `", "expires_in": 3599}`, ErrUnavailable},
		{http.StatusOK, strings.Repeat(" ", maxBody) + `{"access_token": "t", "expires_in": 3599}`, ErrUnavailable},
		{http.StatusOK, `<html>`, ErrUnavailable},
		{http.StatusFound, `{"access_token": "t", "expires_in": 3599}`, ErrUnavailable},
		{http.StatusTooManyRequests, `{"error": "invalid_request"}`, ErrUnavailable},
		{http.StatusInternalServerError, `{"error": "invalid_client"}`, ErrUnavailable},
		{http.StatusForbidden, `<html>blocked by a proxy`, ErrUnavailable},
		{http.StatusBadRequest, `{"error": "server_error"}`, ErrUnavailable},
		{http.StatusBadRequest, `{"error": "EXAMPLE ROOT"}`, ErrUnavailable},
		{http.StatusBadRequest, `{"error": "unauthorized_client"}`, ErrRefused},
		{http.StatusBadRequest, `{"error": "invalid_grant"}`, ErrRefused},
		{http.StatusUnauthorized, `{"error": "invalid_client"}`, ErrRefused},
	} {
		asked := 0
		x := New(service(func(r *http.Request) (int, string) {
			if asked++; r.URL.Host != "a.example" {
				t.Error("a redirect was followed")
			}
			return c.status, c.body
		}))
		got := at("a.example")
		err := x.Complete(t.Context(), "k:1", got)
		require.ErrorIs(t, err, c.want, c.body)
		require.Equal(t, c.want == nil, got.Secret == "t", c.body)
		require.LessOrEqual(t, got.Life, maxLife)
		require.Equal(t, 1, asked)
	}
}

func TestTokensOfTooManyKeysAreDropped(t *testing.T) {
	t.Parallel()
	x := New(nil)
	for i := range maxHeld + 10 {
		x.hold(fmt.Sprint(i), outcome{token: "t", expires: time.Now().Add(time.Hour), next: time.Now().Add(time.Hour)})
	}
	require.Len(t, x.held, maxHeld)
	require.Equal(t, "t", x.recall(fmt.Sprint(maxHeld+9)).token)
}

func TestRolesNeedOneWhoAssumesThem(t *testing.T) {
	role := &providers.Credential{Grant: &providers.Grant{Role: &providers.Role{ARN: "arn:aws:iam::123456789012:role/a", Region: "us-east-1"}}}
	require.ErrorIs(t, New(nil).Complete(t.Context(), "k:1", role), ErrUnavailable)
}
