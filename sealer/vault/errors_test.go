package vault_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
	"github.com/agentrouter/aikeys/sealer/vault"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

// relabel names another KEK of the same length in an envelope.
func relabel(envelope sealer.Envelope, from, to string) []byte {
	return []byte(strings.Replace(string(envelope.Bytes), from, to, 1))
}

// answer makes the server answer all requests with a status and a body.
func answer(t *testing.T, status int, body string) {
	bao.Intercept(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body)) // the client may have gone
		})
	})
}

// These are the rows of the table of errors. The real server produces each, except those that it never gives.
func TestErrorsOfOpen(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, key string, envelope sealer.Envelope) []byte // nil changes nothing
		is    error
		isNot error // a similar error, which the error must not be
		text  string
	}{
		"bytes that are too few": {func(t *testing.T, _ string, e sealer.Envelope) []byte {
			return slices.Concat(e.Bytes[:2+len(e.KEKID)], []byte{0, 3}, []byte("abc"), e.Bytes[len(e.Bytes)-60:])
		}, sealer.ErrBinding, sealer.ErrUnavailable, "invalid ciphertext"},
		"changed bytes": {func(_ *testing.T, _ string, e sealer.Envelope) []byte {
			e.Bytes[len(e.KEKID)+30] ^= 1
			return e.Bytes
		}, sealer.ErrBinding, sealer.ErrUnavailable, "message authentication failed"},
		"a version that is not there": {func(_ *testing.T, _ string, e sealer.Envelope) []byte {
			return relabel(e, ":v1", ":v9")
		}, sealer.ErrUnknownKEK, sealer.ErrUnavailable, "version is too new"},
		"a version that is too old": {func(t *testing.T, key string, _ sealer.Envelope) []byte {
			bao.Call(t, http.MethodPost, "transit/keys/"+key+"/rotate", nil)
			bao.Call(t, http.MethodPost, "transit/keys/"+key+"/config", map[string]any{"min_decryption_version": 2})
			return nil
		}, sealer.ErrUnknownKEK, sealer.ErrUnavailable, "version is disallowed by policy"},
		"another key": {func(_ *testing.T, key string, e sealer.Envelope) []byte {
			return relabel(e, "transit/"+key, "transit/"+strings.Repeat("x", len(key)))
		}, sealer.ErrUnknownKEK, sealer.ErrUnavailable, "no version of the configured key"},
		"a deleted key": {func(t *testing.T, key string, _ sealer.Envelope) []byte {
			bao.Call(t, http.MethodPost, "transit/keys/"+key+"/config", map[string]any{"deletion_allowed": true})
			bao.Call(t, http.MethodDelete, "transit/keys/"+key, nil)
			return nil
		}, sealer.ErrUnknownKEK, sealer.ErrUnavailable, "encryption key not found"},
		"a 400 of an unknown kind": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusBadRequest, `{"errors":["`+sealertest.Secret+`"]}`)
			return nil
		}, kms.ErrRefused, sealer.ErrBinding, "status 400 to decrypt"},
		"no such path": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusNotFound, `{"errors":["no handler for route"]}`)
			return nil
		}, kms.ErrRefused, sealer.ErrBinding, "there is no key"},
		"too many requests": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusTooManyRequests, `{"errors":["`+sealertest.Secret+`"]}`)
			return nil
		}, sealer.ErrUnavailable, kms.ErrRefused, "answered 429"},
		"a fault of the server": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusInternalServerError, `{"errors":["`+sealertest.Secret+`"]}`)
			return nil
		}, sealer.ErrUnavailable, kms.ErrRefused, "answered 500"},
		"a redirect": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusTemporaryRedirect, "")
			return nil
		}, sealer.ErrUnavailable, kms.ErrRefused, "not a valid answer of a transit engine"},
		"an answer that is not JSON": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusOK, sealertest.Secret)
			return nil
		}, sealer.ErrUnavailable, kms.ErrRefused, ""},
		"an answer without data": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusOK, `{}`)
			return nil
		}, sealer.ErrUnavailable, kms.ErrRefused, "an answer without data"},
		"an answer of another form": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusOK, `{"data":{"plaintext":"`+sealertest.Secret+`"}}`)
			return nil
		}, sealer.ErrUnavailable, kms.ErrRefused, "a text of another form"},
		"another data key": {func(t *testing.T, _ string, _ sealer.Envelope) []byte {
			answer(t, http.StatusOK, `{"data":{"plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}`)
			return nil
		}, sealer.ErrBinding, kms.ErrRefused, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			url, key := bao.Sealer(t)
			s := mustOpen(t, url, kms.Options{})
			envelope := sealertest.MustSeal(t, s)
			opened := tc.spoil(t, key, envelope)
			if opened == nil {
				opened = envelope.Bytes
			}
			_, err := s.Open(t.Context(), sealertest.Binding(), opened)
			require.ErrorIs(t, err, tc.is)
			require.NotErrorIs(t, err, tc.isNot)
			require.ErrorContains(t, err, tc.text)
			require.NotContains(t, err.Error(), sealertest.Secret)
		})
	}
}

// Faults that show before anything is sealed are refused with a sentence that says what to do.
func TestStartRefusesKeysThatCantServe(t *testing.T) {
	token := func(key, policy string) func(*testing.T) string {
		return func(t *testing.T) string {
			return bao.URLWithToken(t, key, strings.ReplaceAll(policy, "aikeys", key))
		}
	}
	ofType := func(settings map[string]any) func(*testing.T) string {
		return func(t *testing.T) string {
			key := bao.NewKey(t, settings)
			return token(key, vaulttest.Policy(t, key))(t)
		}
	}
	for name, tc := range map[string]struct {
		url  func(t *testing.T) string
		says string
	}{
		"a mistyped name": {func(t *testing.T) string { return token("mistyped", vaulttest.Policy(t, "mistyped"))(t) }, "there is no key mistyped in a transit engine at transit"},
		"no such engine": {func(t *testing.T) string {
			return strings.Replace(bao.URLWithToken(t, "a", `path "nothing/*" { capabilities = ["read"] }`), "/transit/", "/nothing/", 1)
		}, "there is no key a in a transit engine at nothing"},
		"a key that signs":   {ofType(map[string]any{"type": "ed25519"}), `of type "ed25519", which does not authenticate associated data; make one of type aes256-gcm96`},
		"a key without AEAD": {ofType(map[string]any{"type": "rsa-2048"}), `of type "rsa-2048"`},
		"a derived key":      {ofType(map[string]any{"derived": true}), "is a derived key"},
		"a mistyped name, and a policy that may create": {func(t *testing.T) string {
			return token("mistyped", `path "*" { capabilities = ["create", "read", "update"] }`)(t)
		}, "there is no key mistyped"},
		"a policy that lets a mistyped name make a key": {func(t *testing.T) string {
			key := bao.NewKey(t, nil)
			return token(key, strings.ReplaceAll(vaulttest.Policy(t, key), `"update"`, `"create", "update"`))(t)
		}, "the token has the capability create on transit/encrypt/"},
		"the first token": {func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "root")
			require.NoError(t, os.WriteFile(file, []byte(bao.Root), 0o600))
			return bao.URL(bao.NewKey(t, nil), "token_file="+file)
		}, "the token has the capability root"},
		"a token that may not ask": {func(t *testing.T) string {
			key := bao.NewKey(t, nil)
			return token(key, strings.ReplaceAll(vaulttest.Policy(t, key), "capabilities-self", "other"))(t)
		}, "let its policy update sys/capabilities-self"},
		"a policy without the key": {func(t *testing.T) string {
			return token(bao.NewKey(t, nil), `path "transit/keys/other" { capabilities = ["read"] }`)(t)
		}, "its policy have read on transit/keys/"},
		"a token file that others can read": {func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "token")
			require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
			require.NoError(t, os.Chmod(file, 0o644))
			return bao.URL("a", "token_file="+file)
		}, "chmod 600"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mustOpen(t, tc.url(t), kms.Options{})
			_, err := seal(t, s)
			require.ErrorIs(t, err, kms.ErrRefused)
			require.ErrorContains(t, err, tc.says)
			_, err = s.KEKs(t.Context())
			require.ErrorIs(t, err, kms.ErrRefused)
			require.NotContains(t, err.Error(), bao.Root)
		})
	}
	require.NotContains(t, bao.Call(t, "LIST", "transit/keys", nil)["keys"], "mistyped", "nothing made a key")
}

func TestASealedServer(t *testing.T) {
	own := vaulttest.Start(t)
	url, _ := own.Sealer(t)
	s := mustOpen(t, url, kms.Options{})
	envelope := sealertest.MustSeal(t, s)
	own.Seal(t)
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.NotErrorIs(t, err, kms.ErrRefused)
	require.ErrorContains(t, err, "is sealed; unseal it")
	own.Unseal(t)
	sealertest.RequireOpens(t, s, envelope.Bytes)
}

func TestAServerThatHangs(t *testing.T) {
	url, _ := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{Timeout: 100 * time.Millisecond})
	envelope := sealertest.MustSeal(t, mustOpen(t, url, kms.Options{}))
	released := make(chan struct{})
	bao.Intercept(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released })
	})
	t.Cleanup(func() { close(released) })
	for range 5 {
		_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
		require.ErrorIs(t, err, sealer.ErrUnavailable)
		require.ErrorContains(t, err, "did not answer within 100ms")
	}
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorContains(t, err, "not asked, as the last 5 calls failed")
}

func TestAThrottledCallDoesNotWaitForRetryAfter(t *testing.T) {
	url, _ := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{Timeout: time.Minute})
	envelope := sealertest.MustSeal(t, s)
	bao.Intercept(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		})
	})
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "answered 429")
}

func TestAServerOfAnotherAuthority(t *testing.T) {
	url, _ := bao.Sealer(t)
	other := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	s := mustOpen(t, strings.Replace(url, bao.CAFile, other.CertFile, 1), kms.Options{})
	_, err := seal(t, s)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "certificate signed by unknown authority")

	_, err = vault.Open(strings.Replace(url, bao.CAFile, "/nowhere.pem", 1), kms.Options{}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}
