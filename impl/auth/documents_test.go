package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

// serveDocuments runs an issuer whose documents a test writes itself; %s in discovery stands for its URL.
func serveDocuments(t *testing.T, discovery string, keySet any) (a *auth.Authenticator, issuer string) {
	t.Helper()
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
