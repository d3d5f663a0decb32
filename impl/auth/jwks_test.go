package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

// perFetch is the number of requests of one fetch: the discovery document and the key set.
const perFetch = 2

// requireIssuerUnavailable asserts that the token was neither accepted nor refused.
func requireIssuerUnavailable(t testing.TB, a *auth.Authenticator, token string) error {
	p, err := a.Authenticate(t.Context(), bearer(token))
	require.ErrorIs(t, err, auth.ErrIssuerUnavailable)
	require.NotErrorIs(t, err, auth.ErrUnauthenticated)
	require.Zero(t, p)
	requireQuiet(t, err, token)
	return err
}

func requireOpens(t testing.TB, a *auth.Authenticator, token string) {
	_, err := a.Authenticate(t.Context(), bearer(token))
	require.NoError(t, err)
}

func TestKeyRotation(t *testing.T) {
	t.Run("a token of a new key is accepted, and one of the old key while it is published", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		a := oidcSessions(t, issuer, newClock())
		requireOpens(t, a, issuer.Sign(ann(nil)))
		old := issuer.Sign(ann(map[string]any{"sub": "bob"}))
		issuer.Rotate()
		requireOpens(t, a, issuer.Sign(ann(nil)))
		requireOpens(t, a, old)
		require.Equal(t, 2*perFetch, issuer.Fetches())
	})
	t.Run("a withdrawn key is refused once a new one was fetched", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		a := oidcSessions(t, issuer, newClock())
		requireOpens(t, a, issuer.Sign(ann(nil)))
		old := issuer.Sign(ann(map[string]any{"sub": "bob"}))
		issuer.Rotate()
		issuer.Retire()
		requireOpens(t, a, issuer.Sign(ann(nil)))
		requireRefused(t, a, bearer(old))
	})
	t.Run("a withdrawn key is refused after five minutes, though no token names a new one", func(t *testing.T) {
		issuer, now := authtest.NewIssuer(t), newClock()
		a := oidcSessions(t, issuer, now)
		old := issuer.Sign(ann(map[string]any{"exp": now.Now().Add(time.Hour).Unix()}))
		requireOpens(t, a, old)
		issuer.Rotate()
		issuer.Retire()
		now.Advance(5*time.Minute - time.Second)
		requireOpens(t, a, old)
		now.Advance(time.Minute)
		requireRefused(t, a, bearer(old))
	})
	t.Run("a token that names no key is tried with every key, new ones too", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		a := oidcSessions(t, issuer, newClock())
		for range 2 {
			issuer.Rotate()
			unnamed := issuer.Key()
			unnamed.KeyID = ""
			requireOpens(t, a, authtest.SignWith(t, unnamed, issuer.Claims(ann(nil))))
		}
	})
}

func TestUnknownKeyIDFlood(t *testing.T) {
	issuer, now := authtest.NewIssuer(t), newClock()
	a := oidcSessions(t, issuer, now)
	requireOpens(t, a, issuer.Sign(ann(nil)))
	require.Equal(t, perFetch, issuer.Fetches())
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	flood := func(wave int) {
		var group sync.WaitGroup
		for n := range 100 {
			key := jose.JSONWebKey{Key: forger, KeyID: fmt.Sprintf("kid-%d-%d", wave, n), Algorithm: string(jose.ES256)}
			token := authtest.SignWith(t, key, issuer.Claims(ann(nil)))
			group.Go(func() {
				_, err := a.Authenticate(t.Context(), bearer(token))
				if !errors.Is(err, auth.ErrUnauthenticated) {
					t.Errorf("not refused: %v", err)
				}
			})
		}
		group.Wait()
	}
	flood(1)
	require.Equal(t, 2*perFetch, issuer.Fetches(), "one fetch for all")
	now.Advance(5*time.Second - time.Nanosecond)
	flood(2)
	require.Equal(t, 2*perFetch, issuer.Fetches(), "none within five seconds")
	now.Advance(time.Nanosecond)
	flood(3)
	require.Equal(t, 3*perFetch, issuer.Fetches())

	issuer.Rotate()
	now.Advance(5 * time.Second)
	requireOpens(t, a, issuer.Sign(ann(nil)))
}

func TestBrokenIssuer(t *testing.T) {
	for name, broken := range map[string]struct {
		mode authtest.Mode
		log  string
	}{
		"closes the connection":     {authtest.Refuse, "EOF"},
		"answers 500":               {authtest.Fail, "status 500"},
		"hangs":                     {authtest.Hang, "deadline exceeded"},
		"has a garbage key set":     {authtest.Garbage, "not the JSON document"},
		"has an oversized key set":  {authtest.Oversized, "longer than 1048576 bytes"},
		"has an empty key set":      {authtest.Empty, "no key"},
		"says it is another issuer": {authtest.Impostor, "another issuer"},
	} {
		t.Run("one that "+name+" is unavailable, not a refusal, and is asked again after a second", func(t *testing.T) {
			issuer, now := authtest.NewIssuer(t), newClock()
			patience := 10 * time.Second
			if broken.mode == authtest.Hang {
				patience = 100 * time.Millisecond
			}
			oidc, err := auth.NewOIDC(auth.OIDCConfig{
				Issuer: issuer.URL, Audience: authtest.Audience, Now: now.Now,
				HTTPClient: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}},
			})
			require.NoError(t, err)
			a := auth.New(auth.Config{OIDC: oidc, Now: now.Now})
			token := issuer.Sign(ann(nil))
			issuer.Break(broken.mode)
			require.ErrorContains(t, requireIssuerUnavailable(t, a, token), broken.log)

			fetches := issuer.Fetches()
			issuer.Break(authtest.Healthy)
			requireIssuerUnavailable(t, a, token)
			require.Equal(t, fetches, issuer.Fetches(), "not asked again at once")
			now.Advance(time.Second)
			requireOpens(t, a, token)
		})
	}
}

func TestIssuerDownAtStart(t *testing.T) {
	// hangingIssuer returns an Authenticator whose issuer never answers.
	hangingIssuer := func(t *testing.T) *auth.Authenticator {
		oidc, err := auth.NewOIDC(auth.OIDCConfig{
			Issuer: "https://issuer.example", Audience: authtest.Audience,
			HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})},
		})
		require.NoError(t, err)
		return auth.New(auth.Config{OIDC: oidc})
	}
	t.Run("callers that wait for it share one attempt", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		a := oidcSessions(t, issuer, newClock())
		issuer.Break(authtest.Fail)
		var group sync.WaitGroup
		for n := range 50 {
			token := issuer.Sign(ann(map[string]any{"sub": fmt.Sprint("user-", n)}))
			group.Go(func() {
				_, err := a.Authenticate(t.Context(), bearer(token))
				if !errors.Is(err, auth.ErrIssuerUnavailable) {
					t.Errorf("not unavailable: %v", err)
				}
			})
		}
		group.Wait()
		require.Equal(t, 1, issuer.Fetches(), "the first document failed, and was asked for once")
	})
	bubble(t, "a hanging issuer is given up after five seconds", func(t *testing.T) {
		a := hangingIssuer(t)
		start := time.Now()
		requireIssuerUnavailable(t, a, someJWT)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
	bubble(t, "a caller that leaves does not wait for a hanging issuer", func(t *testing.T) {
		a := hangingIssuer(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := a.Authenticate(ctx, bearer(someJWT))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, auth.ErrUnauthenticated)
		require.Equal(t, time.Second, time.Since(start))
		time.Sleep(5 * time.Second) // until the fetch has ended
	})
}

// someJWT has the form of a JWT, but no valid signature.
const someJWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestIssuerDownLater(t *testing.T) {
	issuer, now := authtest.NewIssuer(t), newClock()
	a := oidcSessions(t, issuer, now)
	known := issuer.Key()
	serial := 0
	fresh := func(key jose.JSONWebKey) string { // a token that no cache has seen
		serial++
		claims := map[string]any{"jti": fmt.Sprint(serial), "exp": now.Now().Add(time.Minute).Unix()}
		return authtest.SignWith(t, key, issuer.Claims(ann(claims)))
	}
	requireOpens(t, a, fresh(known))
	issuer.Break(authtest.Fail)
	issuer.Rotate()

	now.Advance(10 * time.Minute)
	requireOpens(t, a, fresh(known))
	fetches := issuer.Fetches()
	for range 14 {
		now.Advance(2 * time.Second)
		requireOpens(t, a, fresh(known))
	}
	require.Equal(t, fetches, issuer.Fetches(), "while known keys serve, it is asked twice a minute at most")
	requireIssuerUnavailable(t, a, fresh(issuer.Key()))

	now.Advance(time.Hour)
	requireIssuerUnavailable(t, a, fresh(known))
	issuer.Break(authtest.Healthy)
	now.Advance(time.Second)
	requireOpens(t, a, fresh(known))
	requireOpens(t, a, fresh(issuer.Key()))
}

func TestRedirects(t *testing.T) {
	for name, target := range map[string]string{
		"to plain http elsewhere": "http://issuer.example/",
		"to itself for ever":      "/.well-known/openid-configuration",
	} {
		t.Run(name+" is not followed", func(t *testing.T) {
			var hosts []string
			network := roundTripper(func(r *http.Request) (*http.Response, error) {
				hosts = append(hosts, r.URL.Host)
				header := http.Header{"Location": {target}}
				return &http.Response{StatusCode: http.StatusFound, Header: header, Body: http.NoBody, Request: r}, nil
			})
			oidc, err := auth.NewOIDC(auth.OIDCConfig{
				Issuer: "https://good.example", Audience: authtest.Audience,
				HTTPClient: &http.Client{Transport: network},
			})
			require.NoError(t, err)
			a := auth.New(auth.Config{OIDC: oidc})
			requireIssuerUnavailable(t, a, authtest.NewIssuer(t).Sign(ann(nil)))
			require.LessOrEqual(t, len(hosts), 4)
			require.NotContains(t, hosts, "issuer.example")
		})
	}
}

// serveDocuments runs an issuer with the documents of a test; %s in discovery stands for the issuer's URL.
func serveDocuments(t *testing.T, discovery string, keySet any) (a *auth.Authenticator, issuer string) {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(strings.ReplaceAll(discovery, "%s", server.URL)))
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(keySet) })
	oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: server.URL, Audience: authtest.Audience})
	require.NoError(t, err)
	return auth.New(auth.Config{OIDC: oidc}), server.URL
}

func TestDiscoveryDocumentIsChecked(t *testing.T) {
	token := authtest.NewIssuer(t).Sign(ann(nil))
	for name, document := range map[string]string{
		"no key set":             `{"issuer":"%s"}`,
		"key set over http":      `{"issuer":"%s","jwks_uri":"http://issuer.example/keys"}`,
		"key set on the disk":    `{"issuer":"%s","jwks_uri":"file:///keys"}`,
		"no issuer":              `{"jwks_uri":"%s/keys"}`,
		"issuer of another type": `{"issuer":["%s"],"jwks_uri":"%s/keys"}`,
		"empty":                  ``,
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := serveDocuments(t, document, map[string]any{})
			require.ErrorContains(t, requireIssuerUnavailable(t, a, token), "discovery document: ", "not what comes after")
		})
	}
}

func TestKeySetOfManyKinds(t *testing.T) {
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key := jose.JSONWebKey{Key: signing, KeyID: "sig", Algorithm: string(jose.ES256), Use: "sig"}
	sealing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	enc := jose.JSONWebKey{Key: sealing, KeyID: "enc", Algorithm: string(jose.ES256), Use: "enc"}
	public := enc.Public()

	a, issuer := serveDocuments(t, `{"issuer":"%s","jwks_uri":"%s/keys"}`, map[string]any{"keys": []any{
		7, "x", map[string]any{"kty": "XYZ", "kid": "new"}, map[string]any{"kty": "RSA", "n": "!", "e": "!"},
		map[string]any{"kty": "oct", "kid": "shared", "k": "c2VjcmV0"}, public, key.Public(),
	}})
	claims := ann(map[string]any{"iss": issuer, "aud": authtest.Audience, "exp": time.Now().Add(time.Minute).Unix()})
	t.Run("kinds that are not known are passed over", func(t *testing.T) {
		requireOpens(t, a, authtest.SignWith(t, key, claims))
	})
	t.Run("a key for encryption verifies no signature", func(t *testing.T) {
		requireRefused(t, a, bearer(authtest.SignWith(t, enc, claims)))
	})
}
