package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

// ann returns the claims of a user's session token, with changes.
func ann(changes map[string]any) map[string]any {
	claims := map[string]any{"customer_id": "acme", "sub": "ann", "project_id": "prod"}
	maps.Copy(claims, changes)
	return claims
}

// oidcSessions returns an Authenticator that accepts the issuer's tokens and no API key.
func oidcSessions(t testing.TB, issuer *authtest.Issuer, now *clock) *auth.Authenticator {
	oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience, Now: now.Now})
	require.NoError(t, err)
	return auth.New(auth.Config{Tokens: newTokens(), OIDC: oidc, Now: now.Now})
}

func TestSessionToken(t *testing.T) {
	t.Run("it opens a session with its claims until it expires", func(t *testing.T) {
		issuer, now := authtest.NewIssuer(t), newClock()
		a := oidcSessions(t, issuer, now)
		expiry := now.Now().Add(time.Minute).Truncate(time.Second)
		p, err := a.Authenticate(t.Context(), bearer(issuer.Sign(ann(map[string]any{"exp": expiry.Unix()}))))
		require.NoError(t, err)
		require.True(t, p.ExpiresAt.Equal(expiry))
		p.ExpiresAt = time.Time{}
		require.Equal(t, auth.Principal{
			CustomerID: "acme", UserID: "ann", ProjectID: "prod", Method: auth.MethodOIDC,
		}, p)
	})
	t.Run("its claims have the names configured", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		names, err := auth.ParseClaimNames("customer=org_id,user=login,project=https://acme.example/project")
		require.NoError(t, err)
		oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience, Claims: names})
		require.NoError(t, err)
		a := auth.New(auth.Config{OIDC: oidc})
		p, err := a.Authenticate(t.Context(), bearer(issuer.Sign(map[string]any{
			"sub": "auth0|1", "org_id": "acme", "login": "ann.b", "https://acme.example/project": "prod",
		})))
		require.NoError(t, err)
		require.Equal(t, "acme", p.CustomerID)
		require.Equal(t, "ann.b", p.UserID)
		require.Equal(t, "prod", p.ProjectID)
	})
	t.Run("one claim may serve as two ids", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		oidc, err := auth.NewOIDC(auth.OIDCConfig{
			Issuer: issuer.URL, Audience: authtest.Audience,
			Claims: auth.ClaimNames{Customer: "org", Project: "org"},
		})
		require.NoError(t, err)
		a := auth.New(auth.Config{OIDC: oidc})
		p, err := a.Authenticate(t.Context(), bearer(issuer.Sign(map[string]any{"sub": "ann", "org": "acme"})))
		require.NoError(t, err)
		require.Equal(t, "acme", p.CustomerID)
		require.Equal(t, "acme", p.ProjectID)
	})
	t.Run("ours may be one of several audiences", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		token := issuer.Sign(ann(map[string]any{"aud": []string{"other", authtest.Audience}}))
		_, err := oidcSessions(t, issuer, newClock()).Authenticate(t.Context(), bearer(token))
		require.NoError(t, err)
	})
	t.Run("it is verified once a minute, and never served from its expiry on", func(t *testing.T) {
		issuer, now := authtest.NewIssuer(t), newClock()
		a := oidcSessions(t, issuer, now)
		expiry := now.Now().Truncate(time.Second).Add(30 * time.Second)
		short := issuer.Sign(ann(map[string]any{"exp": expiry.Unix()}))
		_, err := a.Authenticate(t.Context(), bearer(short))
		require.NoError(t, err)
		now.Advance(expiry.Sub(now.Now()) - time.Nanosecond)
		_, err = a.Authenticate(t.Context(), bearer(short))
		require.NoError(t, err)
		now.Advance(time.Nanosecond)
		requireRefused(t, a, bearer(short))
	})
}

func TestSessionTokenRefused(t *testing.T) {
	issuer, now := authtest.NewIssuer(t), newClock()
	a := oidcSessions(t, issuer, now)
	at := func(d time.Duration) int64 { return now.Now().Add(d).Unix() }

	for name, claims := range map[string]map[string]any{
		"another audience":              {"aud": "billing"},
		"no audience":                   {"aud": nil},
		"audience in other case":        {"aud": "AIKEYS"},
		"another issuer":                {"iss": "https://issuer.example"},
		"no issuer":                     {"iss": nil},
		"issuer with a slash more":      {"iss": issuer.URL + "/"},
		"expired":                       {"exp": at(-time.Second)},
		"expires this second":           {"exp": at(0)},
		"no expiry":                     {"exp": nil},
		"expiry zero":                   {"exp": 0},
		"expiry is no number":           {"exp": "tomorrow"},
		"not before a time to come":     {"nbf": at(6 * time.Minute)},
		"not-before is no number":       {"nbf": "soon"},
		"no customer":                   {"customer_id": ""},
		"customer missing":              {"customer_id": nil},
		"customer is a number":          {"customer_id": 7},
		"customer is a list":            {"customer_id": []string{"acme"}},
		"customer is an object":         {"customer_id": map[string]any{"id": "acme"}},
		"customer means mine":           {"customer_id": "-"},
		"customer climbs a path":        {"customer_id": ".."},
		"customer with a slash":         {"customer_id": "acme/x"},
		"customer with a newline":       {"customer_id": "acme\n"},
		"customer with a NUL":           {"customer_id": "acme\x00"},
		"customer of other letters":     {"customer_id": "аcme"},
		"customer too long":             {"customer_id": strings.Repeat("a", 65)},
		"project missing":               {"project_id": nil},
		"project with a space":          {"project_id": "pr od"},
		"user missing":                  {"sub": nil},
		"user with a bar":               {"sub": "auth0|507f1f77bcf86cd799439011"},
		"user is an e-mail address":     {"sub": "ann@acme.example"},
		"audience in a second spelling": {"aud": "billing", "Aud": authtest.Audience},
		"expiry in a second spelling":   {"exp": at(-time.Hour), "EXP": at(time.Hour)},
		"issuer in a folded spelling":   {"iſs": issuer.URL},
	} {
		t.Run(name, func(t *testing.T) {
			requireRefused(t, a, bearer(issuer.Sign(ann(claims))))
		})
	}
	t.Run("claims that are no object", func(t *testing.T) {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: issuer.Key()}, nil)
		require.NoError(t, err)
		for _, payload := range []string{`[]`, `"ann"`, `null`, ``, `{`, `{"iss":"` + issuer.URL + `"`} {
			jws, err := signer.Sign([]byte(payload))
			require.NoError(t, err)
			token, err := jws.CompactSerialize()
			require.NoError(t, err)
			requireRefused(t, a, bearer(token))
		}
	})
	t.Run("the log can tell the reasons apart", func(t *testing.T) {
		reasons := map[string]bool{}
		for _, claims := range []map[string]any{
			{"aud": "billing"}, {"iss": "https://issuer.example"}, {"exp": at(-time.Hour)},
			{"customer_id": ""}, {"sub": "auth0|1"}, {"project_id": ""}, {"Iss": "x"},
		} {
			reasons[requireRefused(t, a, bearer(issuer.Sign(ann(claims)))).Error()] = true
		}
		require.Len(t, reasons, 7)
	})
}

func TestSessionTokenForged(t *testing.T) {
	issuer := authtest.NewIssuer(t)
	a := oidcSessions(t, issuer, newClock())
	genuine := issuer.Sign(ann(nil))
	_, err := a.Authenticate(t.Context(), bearer(genuine))
	require.NoError(t, err)

	parts := strings.Split(genuine, ".")
	encode := base64.RawURLEncoding.EncodeToString
	key := issuer.Key()
	forger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)

	t.Run("algorithm none", func(t *testing.T) {
		for _, alg := range []string{"none", "None", "NONE", ""} {
			header := encode([]byte(`{"alg":"` + alg + `","kid":"` + key.KeyID + `"}`))
			for _, signature := range []string{"", parts[2]} {
				err := requireRefused(t, a, bearer(header+"."+parts[1]+"."+signature))
				require.ErrorContains(t, err, "algorithm", "no key is tried")
			}
		}
	})
	t.Run("HS256 with the public key as the secret", func(t *testing.T) {
		der, err := x509.MarshalPKIXPublicKey(key.Public().Key)
		require.NoError(t, err)
		jwk, err := json.Marshal(key.Public())
		require.NoError(t, err)
		block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		for _, secret := range [][]byte{der, block, jwk} {
			shared := jose.JSONWebKey{Key: secret, KeyID: key.KeyID, Algorithm: string(jose.HS256)}
			err := requireRefused(t, a, bearer(authtest.SignWith(t, shared, issuer.Claims(ann(nil)))))
			require.ErrorContains(t, err, "algorithm", "no key is tried")
		}
	})
	t.Run("another key under the issuer's key id, or none", func(t *testing.T) {
		for _, kid := range []string{key.KeyID, ""} {
			forged := jose.JSONWebKey{Key: forger, KeyID: kid, Algorithm: string(jose.ES256)}
			requireRefused(t, a, bearer(authtest.SignWith(t, forged, issuer.Claims(ann(nil)))))
		}
	})
	t.Run("a key that the token brings along", func(t *testing.T) {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: forger}, &jose.SignerOptions{EmbedJWK: true})
		require.NoError(t, err)
		payload, err := json.Marshal(issuer.Claims(ann(nil)))
		require.NoError(t, err)
		jws, err := signer.Sign(payload)
		require.NoError(t, err)
		token, err := jws.CompactSerialize()
		require.NoError(t, err)
		requireRefused(t, a, bearer(token))
	})
	t.Run("a changed payload, signature or header", func(t *testing.T) {
		payload, err := json.Marshal(issuer.Claims(ann(map[string]any{"sub": "root"})))
		require.NoError(t, err)
		requireRefused(t, a, bearer(parts[0]+"."+encode(payload)+"."+parts[2]))
		requireRefused(t, a, bearer(parts[0]+"."+parts[1]+"."))
		requireRefused(t, a, bearer(parts[0]+"."+parts[1]+"."+encode(make([]byte, 64))))
		critical := encode([]byte(`{"alg":"ES256","crit":["x"],"x":1,"kid":"` + key.KeyID + `"}`))
		requireRefused(t, a, bearer(critical+"."+parts[1]+"."+parts[2]))
	})
}

func TestSessionTokenAlgorithms(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	require.NoError(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)

	for algorithm, key := range map[jose.SignatureAlgorithm]crypto.Signer{
		jose.RS256: rsaKey, jose.RS384: rsaKey, jose.RS512: rsaKey,
		jose.PS256: rsaKey, jose.PS384: rsaKey, jose.PS512: rsaKey,
		jose.ES384: p384, jose.ES512: p521, jose.EdDSA: edKey,
	} {
		t.Run(string(algorithm), func(t *testing.T) {
			issuer := authtest.NewIssuer(t)
			issuer.RotateTo(key, algorithm)
			_, err := oidcSessions(t, issuer, newClock()).Authenticate(t.Context(), bearer(issuer.Sign(ann(nil))))
			require.NoError(t, err)
		})
	}
	t.Run("a key serves only the algorithm that it is published for", func(t *testing.T) {
		issuer := authtest.NewIssuer(t)
		issuer.RotateTo(rsaKey, jose.PS256)
		other := issuer.Key()
		other.Algorithm = string(jose.RS256)
		requireRefused(t, oidcSessions(t, issuer, newClock()),
			bearer(authtest.SignWith(t, other, issuer.Claims(ann(nil)))))
	})
}

func TestNewOIDC(t *testing.T) {
	for name, cfg := range map[string]auth.OIDCConfig{
		"no issuer":             {Audience: "a"},
		"no audience":           {Issuer: "https://issuer.example"},
		"http":                  {Issuer: "http://issuer.example", Audience: "a"},
		"http on a look-alike":  {Issuer: "http://localhost.example", Audience: "a"},
		"another scheme":        {Issuer: "file:///etc/issuer", Audience: "a"},
		"no host":               {Issuer: "https://", Audience: "a"},
		"no URL":                {Issuer: "https://issuer example", Audience: "a"},
		"a password":            {Issuer: "https://u:p@issuer.example", Audience: "a"},
		"a query":               {Issuer: "https://issuer.example/?tenant=1", Audience: "a"},
		"a fragment":            {Issuer: "https://issuer.example/#x", Audience: "a"},
		"host without a scheme": {Issuer: "issuer.example", Audience: "a"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := auth.NewOIDC(cfg)
			require.Error(t, err)
		})
	}
	for _, issuer := range []string{
		"https://issuer.example", "https://issuer.example/realms/acme/", "http://localhost:5556/dex",
		"http://127.0.0.1:8080", "http://[::1]:8080",
	} {
		t.Run("accepted: "+issuer, func(t *testing.T) {
			_, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer, Audience: "a"})
			require.NoError(t, err)
		})
	}
}

func TestParseClaimNames(t *testing.T) {
	for text, want := range map[string]auth.ClaimNames{
		"":                                      {Customer: "customer_id", User: "sub", Project: "project_id"},
		"  ":                                    {Customer: "customer_id", User: "sub", Project: "project_id"},
		"user=login":                            {Customer: "customer_id", User: "login", Project: "project_id"},
		"user=a=b":                              {Customer: "customer_id", User: "a=b", Project: "project_id"},
		"customer=org_id,user=sub,project=proj": {Customer: "org_id", User: "sub", Project: "proj"},
		"project=https://x.example/p, customer=org": {Customer: "org", User: "sub", Project: "https://x.example/p"},
	} {
		got, err := auth.ParseClaimNames(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"role=admin", "user", "user=", "=x", "user=a,user=b", "user=a,", ",", "User=a", "user =a"} {
		_, err := auth.ParseClaimNames(text)
		require.Error(t, err, text)
	}
}

func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		mode authtest.Mode
		want error
	}{
		"an issuer that answers":    {authtest.Healthy, nil},
		"an issuer that refuses":    {authtest.Refuse, auth.ErrIssuerUnavailable},
		"an issuer without keys":    {authtest.Empty, auth.ErrIssuerUnavailable},
		"an issuer of another name": {authtest.Impostor, auth.ErrIssuerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := authtest.NewIssuer(t)
			issuer.Break(tc.mode)
			oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience})
			require.NoError(t, err)
			require.ErrorIs(t, oidc.Probe(t.Context()), tc.want)
			require.Positive(t, issuer.Fetches(), "it asked")
		})
	}
}

// A JWT that the issuer has signed for our audience opens a session only if it is a session token (RFC 8725, section
// 3).
func TestOnlySessionTokensOpenSessions(t *testing.T) {
	issuer, now := authtest.NewIssuer(t), newClock()
	oidc, err := auth.NewOIDC(auth.OIDCConfig{
		Issuer: issuer.URL, Audience: authtest.Audience, AuthorizedParties: []string{"web"}, Now: now.Now,
	})
	require.NoError(t, err)
	strict, partied := oidcSessions(t, issuer, now), auth.New(auth.Config{OIDC: oidc, Now: now.Now})
	at := func(d time.Duration) int64 { return now.Now().Add(d).Unix() }
	for name, tc := range map[string]struct {
		typ      any // nil means absent
		claims   map[string]any
		sessions *auth.Authenticator
		opens    bool
	}{
		"JWT":                                    {"JWT", nil, strict, true},
		"3.11: no typ":                           {nil, nil, strict, true},
		"3.11: an access token":                  {"at+jwt", nil, strict, true},
		"3.11: an access token's media type":     {"application/at+JWT", nil, strict, true},
		"3.11: a logout token":                   {"logout+jwt", nil, strict, false},
		"3.11: client authentication":            {"client-authentication+jwt", nil, strict, false},
		"3.11: a security event":                 {"secevent+jwt", nil, strict, false},
		"3.11: a proof of possession":            {"dpop+jwt", nil, strict, false},
		"3.11: an empty typ":                     {"", nil, strict, false},
		"3.11: a typ that is no text":            {7, nil, strict, false},
		"3.12: events":                           {"JWT", map[string]any{"events": map[string]any{"logout": 1}}, strict, false},
		"3.12: events in another letter case":    {"JWT", map[string]any{"Events": map[string]any{}}, strict, false},
		"3.12: another client":                   {"JWT", map[string]any{"azp": "other"}, strict, false},
		"3.12: our own client":                   {"JWT", map[string]any{"azp": authtest.Audience}, strict, true},
		"3.12: a client that is no text":         {"JWT", map[string]any{"azp": []string{authtest.Audience}}, strict, false},
		"3.12: an authorized party":              {"JWT", map[string]any{"azp": "web"}, partied, true},
		"3.12: no authorized party":              {"JWT", map[string]any{"azp": authtest.Audience}, partied, false},
		"3.12: no azp":                           {"JWT", nil, partied, true},
		"3.9: another audience":                  {"JWT", map[string]any{"aud": "other"}, strict, false},
		"3.8: another issuer":                    {"JWT", map[string]any{"iss": "https://other.example"}, strict, false},
		"a clock that is ahead by less":          {"JWT", map[string]any{"iat": at(50 * time.Second)}, strict, true},
		"issued in the future":                   {"JWT", map[string]any{"iat": at(2 * time.Minute), "exp": at(time.Hour)}, strict, false},
		"issued next year":                       {"JWT", map[string]any{"iat": at(365 * 24 * time.Hour)}, strict, false},
		"issued at no time":                      {"JWT", map[string]any{"iat": "now"}, strict, false},
		"issued at null":                         {"JWT", map[string]any{"iat": json.RawMessage("null")}, strict, false},
		"a day":                                  {"JWT", map[string]any{"iat": at(0), "exp": at(24 * time.Hour)}, strict, true},
		"more than a day":                        {"JWT", map[string]any{"iat": at(0), "exp": at(24*time.Hour + time.Second)}, strict, false},
		"more than a day, of which it has hours": {"JWT", map[string]any{"iat": at(-24 * time.Hour), "exp": at(time.Hour)}, strict, false},
		"50 years":                               {"JWT", map[string]any{"exp": at(50 * 365 * 24 * time.Hour)}, strict, false},
		"50 years from nowhere":                  {"JWT", map[string]any{"iat": nil, "exp": at(50 * 365 * 24 * time.Hour)}, strict, false},
		"an hour from nowhere":                   {"JWT", map[string]any{"iat": nil, "exp": at(time.Hour)}, strict, true},
	} {
		t.Run(name, func(t *testing.T) {
			options := &jose.SignerOptions{}
			if tc.typ != nil {
				options.WithHeader(jose.HeaderType, tc.typ)
			}
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: issuer.Key()}, options)
			require.NoError(t, err)
			payload, err := json.Marshal(issuer.Claims(ann(tc.claims)))
			require.NoError(t, err)
			signed, err := signer.Sign(payload)
			require.NoError(t, err)
			token, err := signed.CompactSerialize()
			require.NoError(t, err)
			if !tc.opens {
				requireRefused(t, tc.sessions, bearer(token))
				return
			}
			_, err = tc.sessions.Authenticate(t.Context(), bearer(token))
			require.NoError(t, err)
		})
	}
}

func TestSignInServersAreTheIssuers(t *testing.T) {
	issuer, now := authtest.NewIssuer(t), newClock()
	cfg := auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience, ClientID: "web", Now: now.Now}
	oidc, err := auth.NewOIDC(cfg)
	require.NoError(t, err)

	for _, mode := range []authtest.Mode{authtest.Elsewhere, authtest.Refuse} {
		issuer.Break(mode)
		require.Equal(t, []string{issuer.URL, "https://oauth2.example.com/token"}, oidc.SignInServers(t.Context()), "what is known is kept")
		now.Advance(time.Hour)
	}

	issuer.Break(authtest.Hang)
	cfg.HTTPClient = &http.Client{Timeout: 100 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	oidc, err = auth.NewOIDC(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.Equal(t, []string{issuer.URL}, oidc.SignInServers(ctx), "nobody waits for an issuer that hangs")

	cfg.ClientID = ""
	oidc, err = auth.NewOIDC(cfg)
	require.NoError(t, err)
	require.Empty(t, oidc.SignInServers(t.Context()), "without a client, nobody signs in")
	require.Empty(t, (*auth.OIDC)(nil).SignInServers(t.Context()))
}
