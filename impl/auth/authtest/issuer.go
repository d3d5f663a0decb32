// Package authtest runs an OpenID Connect issuer for tests: a real HTTP server with a discovery document, a key set and
// its own keys. It signs session tokens, rotates its keys and breaks on demand.
//
// It imports third-party libraries only.
package authtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
)

// Audience is the "aud" of the tokens that an Issuer signs.
const Audience = "aikeys"

// Mode is how an Issuer answers.
type Mode int

// The modes of Break.
const (
	Healthy   Mode = iota
	Refuse         // closes the connection without an answer
	Fail           // status 500, but with the document
	Hang           // no answer until the client leaves
	Garbage        // status 200 and no JSON, for the key set only
	Oversized      // a valid key set of 2 MiB
	Empty          // a key set without keys
	Impostor       // a discovery document that names another issuer
	KeysOnly       // a discovery document only for verifying tokens
	NoDevices      // a discovery document without the device flow
	Elsewhere      // a discovery document whose token endpoint is at another host
	PlainPKCE      // a discovery document with only the challenge method "plain"
)

// Issuer is a running issuer. It is safe for concurrent use.
type Issuer struct {
	// URL is the issuer's URL, on a loopback host.
	URL string

	t       testing.TB
	mu      sync.Mutex
	mode    Mode
	keys    []jose.JSONWebKey // private; the last one signs
	serial  int               // of the last key
	fetches int
}

// NewIssuer starts an Issuer with one ES256 key and stops it when the test ends.
func NewIssuer(t testing.TB) *Issuer {
	i := &Issuer{t: t}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.serveDiscovery)
	mux.HandleFunc("GET /keys", i.serveKeys)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	i.URL = server.URL
	i.Rotate()
	return i
}

// Sign returns a session token with the current key. claims are added to the defaults "iss", "aud", "iat" and "exp" (in
// five minutes); a nil value removes a claim.
func (i *Issuer) Sign(claims map[string]any) string {
	return SignWith(i.t, i.Key(), i.Claims(claims))
}

// Claims returns the payload that Sign signs.
func (i *Issuer) Claims(claims map[string]any) map[string]any {
	now := time.Now()
	all := map[string]any{"iss": i.URL, "aud": Audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	for name, value := range claims {
		all[name] = value
		if value == nil {
			delete(all, name)
		}
	}
	return all
}

// Rotate publishes a new ES256 key beside the old ones, and signs with it.
func (i *Issuer) Rotate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(i.t, err)
	i.RotateTo(key, jose.ES256)
}

// RotateTo is Rotate with the given private key and algorithm.
func (i *Issuer) RotateTo(key crypto.Signer, algorithm jose.SignatureAlgorithm) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.serial++
	kid := fmt.Sprintf("key-%d", i.serial)
	i.keys = append(i.keys, jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: string(algorithm), Use: "sig"})
}

// Retire withdraws all keys but the current one.
func (i *Issuer) Retire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = i.keys[len(i.keys)-1:]
}

// Key returns the private key that signs.
func (i *Issuer) Key() jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

// Break changes how the issuer answers; Break(Healthy) repairs it.
func (i *Issuer) Break(mode Mode) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mode = mode
}

// Fetches returns how many requests the issuer has had.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// SignWith returns a JWT of the claims in compact form, signed with the given key, which need not be an Issuer's.
func SignWith(t testing.TB, key jose.JSONWebKey, claims map[string]any) string {
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	require.NoError(t, err)
	payload, err := json.Marshal(claims)
	require.NoError(t, err)
	signed, err := signer.Sign(payload)
	require.NoError(t, err)
	token, err := signed.CompactSerialize()
	require.NoError(t, err)
	return token
}

// arrive counts a request. In the modes that break all of the issuer, it also breaks the request.
func (i *Issuer) arrive(w http.ResponseWriter, r *http.Request) Mode {
	i.mu.Lock()
	i.fetches++
	mode := i.mode
	i.mu.Unlock()
	switch mode {
	case Refuse:
		panic(http.ErrAbortHandler)
	case Fail:
		w.WriteHeader(http.StatusInternalServerError)
	case Hang:
		<-r.Context().Done()
	default: // only the document is broken, or nothing
	}
	return mode
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	mode := i.arrive(w, r)
	document := map[string]any{
		"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token",
		"device_authorization_endpoint": i.URL + "/device", "code_challenge_methods_supported": []string{"S256"},
	}
	switch mode {
	case Impostor:
		document["issuer"] = "https://impostor.example"
	case KeysOnly:
		delete(document, "authorization_endpoint")
	case NoDevices:
		delete(document, "device_authorization_endpoint")
	case Elsewhere:
		document["token_endpoint"] = "https://oauth2.example.com/token"
	case PlainPKCE:
		document["code_challenge_methods_supported"] = []string{"plain"}
	default: // the document is sound
	}
	writeJSON(w, document)
}

func (i *Issuer) serveKeys(w http.ResponseWriter, r *http.Request) {
	switch i.arrive(w, r) {
	case Garbage:
		_, _ = w.Write([]byte("<html>not a key set</html>"))
	case Empty:
		writeJSON(w, map[string]any{"keys": []any{}})
	case Oversized:
		writeJSON(w, map[string]any{"padding": strings.Repeat("x", 2<<20), "keys": i.published()})
	default:
		writeJSON(w, map[string]any{"keys": i.published()})
	}
}

// published returns the public keys of the set.
func (i *Issuer) published() []jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	public := []jose.JSONWebKey{}
	for _, key := range i.keys {
		public = append(public, key.Public())
	}
	return public
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only when the client has left
}
