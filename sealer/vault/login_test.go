package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

func write(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

func revokeToken(t *testing.T, file string) {
	t.Helper()
	token, err := os.ReadFile(file)
	require.NoError(t, err)
	bao.Call(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": string(token[:len(token)-1])})
}

func TestTokenFileIsReadAgain(t *testing.T) {
	key := bao.NewKey(t, nil)
	policy := vaulttest.Policy(t, key)
	file, _ := bao.TokenFile(t, policy, nil)
	s := mustOpen(t, bao.URL(key, "token_file="+file), kms.Options{})
	envelope := sealertest.MustSeal(t, s)
	revokeToken(t, file)
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, kms.ErrRefused)
	require.ErrorContains(t, err, "permission denied; the token must be valid")
	for _, text := range []string{"\n", "VAULT_TOKEN= s.1\n"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err = s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
		require.ErrorIs(t, err, kms.ErrRefused)
		require.ErrorContains(t, err, "has no token, or more than that")
	}
	next, _ := bao.TokenFile(t, policy, nil)
	require.NoError(t, os.Rename(next, file))
	sealertest.RequireOpens(t, s, envelope.Bytes)
}

func TestTokenThatExpires(t *testing.T) {
	t.Parallel()
	key := bao.NewKey(t, nil)
	file, _ := bao.TokenFile(t, vaulttest.Policy(t, key), map[string]any{"ttl": "1s", "renewable": false})
	s := mustOpen(t, bao.URL(key, "token_file="+file), kms.Options{})
	envelope := sealertest.MustSeal(t, s)
	require.Eventually(t, func() bool {
		_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
		return err != nil
	}, patience, tick)
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, kms.ErrRefused)
}

func TestAppRole(t *testing.T) {
	t.Parallel()
	key := bao.NewKey(t, nil)
	policy := bao.WritePolicy(t, vaulttest.Policy(t, key))
	bao.Call(t, http.MethodPost, "sys/auth/machines", map[string]any{"type": "approle"})
	bao.Call(t, http.MethodPost, "auth/machines/role/aikeys", map[string]any{
		"token_policies": policy, "token_no_default_policy": true, "token_ttl": "1s", "token_max_ttl": "2s",
	})
	roleID, _ := bao.Call(t, http.MethodGet, "auth/machines/role/aikeys/role-id", nil)["role_id"].(string)
	secretID, _ := bao.Call(t, http.MethodPost, "auth/machines/role/aikeys/secret-id", nil)["secret_id"].(string)
	file := write(t, secretID+"\n")
	s := mustOpen(t, bao.URL(key, "auth_mount=machines&role_id="+roleID+"&secret_id_file="+file), kms.Options{})
	envelope := sealertest.MustSeal(t, s)
	// The token may be renewed until it is 2 s old; then it takes another login. Nobody notices.
	opens, logins := 0, count(t, "auth/machines/login")
	require.Eventually(t, func() bool {
		sealertest.RequireOpens(t, s, envelope.Bytes)
		opens++
		return logins.Load() >= 2
	}, patience, tick)
	require.Greater(t, opens, 4, "no login for each call")

	require.NoError(t, os.WriteFile(file, []byte("wrong"), 0o600))
	other := mustOpen(t, bao.URL(key, "auth_mount=machines&role_id="+roleID+"&secret_id_file="+file), kms.Options{})
	_, err := seal(t, other)
	require.ErrorIs(t, err, kms.ErrRefused)
	require.ErrorContains(t, err, "login at auth/machines/login: status 400; check the role and that its credential is valid")
	require.NotContains(t, err.Error(), "wrong")
}

// serviceAccount returns a token of a service account. Only the API server checks its signature.
func serviceAccount(t *testing.T, namespace, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(map[string]any{
		"iss": "kubernetes", "sub": "system:serviceaccount:" + namespace + ":" + name, "iat": time.Now().Add(-time.Minute).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]any{"name": name, "uid": "5f0c"}},
	}).Serialize()
	require.NoError(t, err)
	return token
}

func TestKubernetes(t *testing.T) {
	key := bao.NewKey(t, nil)
	policy := bao.WritePolicy(t, vaulttest.Policy(t, key))
	// The part of a Kubernetes API server that checks tokens.
	cluster := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" || json.NewDecoder(r.Body).Decode(&review) != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		review["status"] = map[string]any{"authenticated": true, "user": map[string]any{
			"username": "system:serviceaccount:keys:aikeys", "uid": "5f0c", "groups": []string{"system:serviceaccounts"},
		}}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review) // the server may have gone
	}))
	t.Cleanup(cluster.Close)
	bao.Call(t, http.MethodPost, "sys/auth/kubernetes", map[string]any{"type": "kubernetes"})
	bao.Call(t, http.MethodPost, "auth/kubernetes/config", map[string]any{
		"kubernetes_host": cluster.URL, "disable_local_ca_jwt": true, "token_reviewer_jwt": serviceAccount(t, "vault", "reviewer"),
		"kubernetes_ca_cert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cluster.Certificate().Raw})),
	})
	bao.Call(t, http.MethodPost, "auth/kubernetes/role/aikeys", map[string]any{
		"bound_service_account_names": "aikeys", "bound_service_account_namespaces": "keys", "token_policies": policy,
	})
	file := write(t, serviceAccount(t, "keys", "aikeys"))
	require.NoError(t, os.Chmod(file, 0o644)) // as Kubernetes mounts it
	s := mustOpen(t, bao.URL(key, "kubernetes_role=aikeys&jwt_file="+file), kms.Options{})
	sealertest.RequireOpens(t, s, sealertest.MustSeal(t, s).Bytes)

	other := mustOpen(t, bao.URL(key, "kubernetes_role=other&jwt_file="+file), kms.Options{})
	_, err := seal(t, other)
	require.ErrorIs(t, err, kms.ErrRefused)
}
