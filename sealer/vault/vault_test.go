package vault_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// rotate gives a key a new version, and returns a Sealer that has not cached the one before.
func rotate(t *testing.T, url, key string) *kms.Sealer {
	t.Helper()
	bao.Call(t, http.MethodPost, "transit/keys/"+key+"/rotate", nil)
	return mustOpen(t, url, kms.Options{})
}

func configure(t *testing.T, key string, settings map[string]any) {
	t.Helper()
	bao.Call(t, http.MethodPost, "transit/keys/"+key+"/config", settings)
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
	sealertest.RequireOpens(t, s, renewed.Bytes) // a process with the list of before opens what the next one has sealed

	keks, err := after.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: renewed.KEKID, State: sealer.KEKPrimary}, {ID: old.KEKID, State: sealer.KEKEnabled}}, keks)

	configure(t, key, map[string]any{"min_decryption_version": 2})
	retired := mustOpen(t, url, kms.Options{})
	keks, err = retired.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, sealer.KEKRetired, keks[1].State)
	_, err = retired.Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	configure(t, key, map[string]any{"min_decryption_version": 1})
	sealertest.RequireOpens(t, retired, old.Bytes)
}

// While a list of versions is cached, its newest one may be closed for encryption.
func TestAVersionClosedForSealingIsReplacedAtOnce(t *testing.T) {
	url, key := bao.Sealer(t)
	s := mustOpen(t, url, kms.Options{})
	sealertest.MustSeal(t, s)
	rotate(t, url, key)
	configure(t, key, map[string]any{"min_encryption_version": 2})
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

// Roles of a split control plane need one half of the policy each.
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
