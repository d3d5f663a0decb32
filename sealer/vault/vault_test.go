package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
	"github.com/agentrouter/aikeys/sealer/vault"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

const patience, tick = 20 * time.Second, 20 * time.Millisecond

var bao *vaulttest.Server // shared by the tests of this package, each of which has a key of its own

func TestMain(m *testing.M) {
	var err error
	if bao, err = vaulttest.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	bao.Stop()
	os.Exit(code)
}

func mustOpen(t *testing.T, url string, options kms.Options) *kms.Sealer {
	t.Helper()
	s, err := vault.Open(url, options, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestContract(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		url, _ := bao.Sealer(t)
		return mustOpen(t, url, kms.Options{})
	})
}

func seal(t *testing.T, s sealer.Sealer) (sealer.Envelope, error) {
	return s.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
}

// rotate gives a key a new version, and returns a Sealer that has not cached the previous version.
func rotate(t *testing.T, url, key string) *kms.Sealer {
	t.Helper()
	bao.Call(t, http.MethodPost, "transit/keys/"+key+"/rotate", nil)
	return mustOpen(t, url, kms.Options{})
}

func TestRotation(t *testing.T) {
	url, key := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{})
	old := sealertest.MustSeal(t, s)
	require.Equal(t, "vault:transit/"+key+":v1", old.KEKID)
	after := rotate(t, url, key)
	sealertest.RequireOpens(t, after, old.Bytes)
	renewed, err := after.Rewrap(t.Context(), sealertest.Binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, "vault:transit/"+key+":v2", renewed.KEKID)
	require.True(t, sealer.SamePayload(old.Bytes, renewed.Bytes))
	sealertest.RequireOpens(t, s, renewed.Bytes) // also by a process with the old list of versions

	keks, err := after.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: renewed.KEKID, State: sealer.KEKPrimary}, {ID: old.KEKID, State: sealer.KEKEnabled}}, keks)

	bao.Call(t, http.MethodPost, "transit/keys/"+key+"/config", map[string]any{"min_decryption_version": 2})
	retired := mustOpen(t, url, kms.Options{})
	keks, err = retired.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, sealer.KEKRetired, keks[1].State)
	_, err = retired.Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	bao.Call(t, http.MethodPost, "transit/keys/"+key+"/config", map[string]any{"min_decryption_version": 1})
	sealertest.RequireOpens(t, retired, old.Bytes)
}

// While a list of versions is cached, an operator may close its newest version for encryption.
func TestAVersionClosedForSealingIsReplacedAtOnce(t *testing.T) {
	url, key := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{})
	sealertest.MustSeal(t, s)
	rotate(t, url, key)
	bao.Call(t, http.MethodPost, "transit/keys/"+key+"/config", map[string]any{"min_encryption_version": 2})
	require.Equal(t, "vault:transit/"+key+":v2", sealertest.MustSeal(t, s).KEKID)
}

func TestBatches(t *testing.T) {
	url, key := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{})
	items := make([]sealer.Item, 100)
	for i := range items {
		items[i] = sealer.Item{Binding: sealertest.Binding(), Envelope: sealertest.MustSeal(t, s).Bytes}
	}
	items[7].Binding.Version++
	after := rotate(t, url, key)
	requests := count(t, "")
	results, err := after.RewrapAll(t.Context(), slices.Concat(items[:7], items[8:]))
	require.NoError(t, err)
	require.EqualValues(t, 5, requests.Load(), "the key, the token's rights, and one call for all to unwrap, to wrap, and to prove")
	for _, result := range results {
		require.NoError(t, result.Err)
		sealertest.RequireOpens(t, after, result.Envelope.Bytes)
	}
	results, err = after.RewrapAll(t.Context(), items)
	require.NoError(t, err, "the server refuses the batch as a whole")
	for i, result := range results {
		if i == 7 {
			require.ErrorIs(t, result.Err, sealer.ErrBinding)
		} else {
			require.NoError(t, result.Err)
		}
	}
}

// count counts the requests whose path has a part, from now on.
func count(t *testing.T, part string) *atomic.Int64 {
	var requests atomic.Int64
	bao.Intercept(t, func(server http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, part) {
				requests.Add(1)
			}
			server.ServeHTTP(w, r)
		})
	})
	return &requests
}

// One cold open is one call, and a seal is two: one wraps, one proves that it unwraps.
func TestCallsOfAnOperation(t *testing.T) {
	url, _ := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{})
	envelope := sealertest.MustSeal(t, s)
	requests := count(t, "")
	sealertest.RequireOpens(t, s, envelope.Bytes)
	require.EqualValues(t, 1, requests.Load())
	public := mustOpen(t, url, kms.Options{WrapOnly: true})
	sealertest.MustSeal(t, public)
	requests.Store(0)
	sealertest.MustSeal(t, public)
	require.LessOrEqual(t, requests.Load(), int64(2), "one, and the list of versions if it is a second old")
}

// Each role of a split control plane needs one half of the policy.
func TestRightsOfTheTwoRoles(t *testing.T) {
	url, key := bao.Sealer(t)
	envelope := sealertest.MustSeal(t, mustOpen(t, url, kms.Options{}))
	lacking := func(operation string) string {
		var kept []string
		for line := range strings.Lines(vaulttest.Policy(t, key)) {
			if !strings.Contains(line, "transit/"+operation+"/") {
				kept = append(kept, line)
			}
		}
		return bao.URLWithToken(t, key, strings.Join(kept, ""))
	}
	public := mustOpen(t, lacking("decrypt"), kms.Options{WrapOnly: true})
	sealertest.RequireOpens(t, mustOpen(t, url, kms.Options{}), sealertest.MustSeal(t, public).Bytes)
	_, err := public.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, kms.ErrRefused)
	require.ErrorContains(t, err, "its policy have update on transit/decrypt/"+key)

	dataPlanes := mustOpen(t, lacking("encrypt"), kms.Options{})
	sealertest.RequireOpens(t, dataPlanes, envelope.Bytes)
	_, err = seal(t, dataPlanes)
	require.ErrorIs(t, err, kms.ErrRefused)
}

func write(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

func TestTokenFileIsReadAgain(t *testing.T) {
	key := bao.NewKey(t, nil)
	policy := vaulttest.Policy(t, key)
	file, _ := bao.TokenFile(t, policy, nil)
	s := mustOpen(t, bao.URL(key, "token_file="+file), kms.Options{})
	envelope := sealertest.MustSeal(t, s)
	token, err := os.ReadFile(file)
	require.NoError(t, err)
	bao.Call(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": string(token[:len(token)-1])})
	_, err = s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
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

func TestParseURL(t *testing.T) {
	const jwt = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	for text, want := range map[string]vault.Config{
		"vault+https://bao.internal:8200/transit/aikeys?token_file=/run/token": {
			Address: "https://bao.internal:8200", Mount: "transit", Key: "aikeys", TokenFile: "/run/token", AuthMount: "approle"},
		"vault+https://bao.internal/teams/keys/aikeys?role_id=r&secret_id_file=/s&namespace=/a/b/&ca=/ca.pem&cert=/c.pem&key=/k.pem": {
			Address: "https://bao.internal", Mount: "teams/keys", Key: "aikeys", RoleID: "r", SecretIDFile: "/s", AuthMount: "approle",
			Namespace: "a/b", CAFile: "/ca.pem", CertFile: "/c.pem", KeyFile: "/k.pem"},
		"vault+https://bao.internal/transit/aikeys?kubernetes_role=aikeys": {
			Address: "https://bao.internal", Mount: "transit", Key: "aikeys", KubernetesRole: "aikeys", JWTFile: jwt, AuthMount: "kubernetes"},
		"vault+http://127.0.0.1:8100/transit/aikeys?token_file=/t": {
			Address: "http://127.0.0.1:8100", Mount: "transit", Key: "aikeys", TokenFile: "/t", AuthMount: "approle"},
	} {
		got, err := vault.ParseURL(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, says := range map[string]string{
		"":                                                                  "must be vault+https://",
		"vault+https:///transit/k":                                          "must be vault+https://",
		"vault+https://h":                                                   "must be vault+https://",
		"vault+https://h/k?token_file=/t":                                   "names no key",
		"vault+https://h/t/k":                                               "needs one way to log in",
		"vault+https://u:p@h/t/k":                                           "must be vault+https://",
		"vault+https://h/t/k#f":                                             "must be vault+https://",
		"vault+https://h/t/..?token_file=/t":                                "must be vault+https://",
		"vault+https://h/t/%2e%2e/k?token_file=/t":                          "must be vault+https://",
		"vault+https://h/t//k?token_file=/t":                                "must be vault+https://",
		"vault+http://bao.internal/t/k?token_file=/t":                       "is for 127.0.0.1 and ::1 alone",
		"vault+http://localhost/t/k?token_file=/t":                          "is for 127.0.0.1 and ::1 alone",
		"https://h/t/k?token_file=/t":                                       "must be vault+https://",
		"vault+https://h/t/k?token=hvs.secret":                              `has the parameter "token"`,
		"vault+https://h/t/k?token_file=":                                   "without a value",
		"vault+https://h/t/k?token_file=/t&token_file=/u":                   "or twice",
		"vault+https://h/t/k?token_file=/t&kubernetes_role=r":               "needs one way to log in",
		"vault+https://h/t/k?role_id=r":                                     "needs both role_id and secret_id_file",
		"vault+https://h/t/k?jwt_file=/j":                                   "needs kubernetes_role",
		"vault+https://h/t/k?token_file=/t&auth_mount=a":                    "which a token file does not need",
		"vault+https://h/t/k?token_file=/t&cert=/c":                         "needs both cert and key",
		"vault+https://h/t/k?token_file=/t&namespace=../x":                  "not a path of plain names",
		"vault+https://h/t/k?token_file=/t&a=%zz":                           "must be vault+https://",
		"vault+https://h/t/" + string(make([]byte, 300)):                    "must be vault+https://",
		"vault+https://h/t/k" + strings.Repeat("k", 260) + "?token_file=/t": "at most 255 fit",
	} {
		_, err := vault.ParseURL(text)
		require.ErrorContains(t, err, says, text)
		require.NotContains(t, err.Error(), "hvs.secret")
	}
}
