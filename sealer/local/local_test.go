package local_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

const canary = "sk-canary-0123456789"

func exampleBinding() sealer.Binding {
	return sealer.Binding{CustomerID: "acme", ProjectID: "p1", KeyID: "byok_1", Provider: "openai", Version: 1}
}

// newKeyset returns a manager of a keyset of new keys of these types, the last of which is primary.
func newKeyset(t testing.TB, templates ...*tinkpb.KeyTemplate) *keyset.Manager {
	t.Helper()
	manager := keyset.NewManager()
	for _, template := range templates {
		addPrimary(t, manager, template)
	}
	return manager
}

func addPrimary(t testing.TB, manager *keyset.Manager, template *tinkpb.KeyTemplate) {
	t.Helper()
	id, err := manager.Add(template)
	require.NoError(t, err)
	require.NoError(t, manager.SetPrimary(id))
}

func encode(t testing.TB, manager *keyset.Manager) []byte {
	t.Helper()
	handle, err := manager.Handle()
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)))
	return out.Bytes()
}

// write puts content into a new keyset file and returns its path.
func write(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyset.json")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func mustOpen(t testing.TB, path string) sealer.Sealer {
	t.Helper()
	s, err := local.Open(path)
	require.NoError(t, err)
	return s
}

func mustSeal(t testing.TB, s sealer.Sealer) sealer.Envelope {
	t.Helper()
	envelope, err := s.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
	require.NoError(t, err)
	return envelope
}

func requireOpens(t testing.TB, s sealer.Sealer, envelope []byte) {
	t.Helper()
	secret, err := s.Open(t.Context(), exampleBinding(), envelope)
	require.NoError(t, err)
	require.Equal(t, canary, string(secret.Reveal()))
}

func TestContract(t *testing.T) {
	t.Run("new keyset", func(t *testing.T) {
		sealertest.Run(t, func(t *testing.T) sealer.Sealer { return sealertest.New(t) })
	})
	t.Run("keyset of many keys with and without prefix", func(t *testing.T) {
		manager := newKeyset(t,
			aead.AES256GCMKeyTemplate(), aead.AES256GCMNoPrefixKeyTemplate(), aead.AES256GCMKeyTemplate(),
			aead.AES256GCMNoPrefixKeyTemplate())
		path := write(t, encode(t, manager))
		sealertest.Run(t, func(t *testing.T) sealer.Sealer { return mustOpen(t, path) })
	})
	t.Run("rotation", func(t *testing.T) {
		sealertest.RunRotation(t, func(t *testing.T) (before, after sealer.Sealer) {
			manager := newKeyset(t, aead.AES256GCMKeyTemplate())
			before = mustOpen(t, write(t, encode(t, manager)))
			addPrimary(t, manager, aead.AES256GCMKeyTemplate())
			return before, mustOpen(t, write(t, encode(t, manager)))
		})
	})
}

// A keyset and an envelope of the first release: later ones must open what it stored.
const (
	storedKeyset = `{"primaryKeyId":3919375459,"key":[{"keyData":{
	"typeUrl":"type.googleapis.com/google.crypto.tink.AesGcmKey",
	"value":"GiA3b9a4o8hPyVIMYD7tw9QZdNskuPoKXmgCrxmJoYLpFw==","keyMaterialType":"SYMMETRIC"},"status":"ENABLED",
	"keyId":3919375459,"outputPrefixType":"TINK"}]}`
	storedHex = "010e6c6f63616c3a6539396365633633004101e99cec63698b615adb0d946dc856d00b3a177b33dab37aa93085a69f587115" +
		"ccf3f7b6203afd3d690f77836b26dfb435ea13679f2d6dd03460eeb3909069d1bacea6851390e5131b742081ef055156a95c" +
		"752eb0f91fcc1533ed05a76c8b6566530c7b017398ed7068def74b11953fe3"
)

func TestStoredEnvelopesOpenForever(t *testing.T) {
	s := mustOpen(t, write(t, []byte(storedKeyset)))
	envelope, err := hex.DecodeString(storedHex)
	require.NoError(t, err)
	requireOpens(t, s, envelope)

	kekID, err := sealer.KEKIDOf(envelope)
	require.NoError(t, err)
	require.Equal(t, "local:e99cec63", kekID)
	require.Equal(t, kekID, primaryOf(t, s))
}

func TestKEKID(t *testing.T) {
	require.Regexp(t, `^local:[0-9a-f]{8}$`, mustSeal(t, sealertest.New(t)).KEKID)

	padded := strings.ReplaceAll(storedKeyset, "3919375459", "171")
	require.Equal(t, "local:000000ab", primaryOf(t, mustOpen(t, write(t, []byte(padded)))))
}

func TestDisabledKEKIsUnknown(t *testing.T) {
	manager := newKeyset(t, aead.AES256GCMKeyTemplate())
	before, err := manager.Handle()
	require.NoError(t, err)
	envelope := mustSeal(t, mustOpen(t, write(t, encode(t, manager))))

	addPrimary(t, manager, aead.AES256GCMKeyTemplate())
	require.NoError(t, manager.Disable(before.KeysetInfo().GetPrimaryKeyId()))
	s := mustOpen(t, write(t, encode(t, manager)))
	_, err = s.Open(t.Context(), exampleBinding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	require.ErrorContains(t, err, envelope.KEKID)

	require.NoError(t, manager.Enable(before.KeysetInfo().GetPrimaryKeyId()))
	requireOpens(t, mustOpen(t, write(t, encode(t, manager))), envelope.Bytes)
}

// Two installations whose KEKs have the same id by chance must not be able to open each other's envelopes.
func TestSameKEKIDWithAnotherKey(t *testing.T) {
	envelope, err := hex.DecodeString(storedHex)
	require.NoError(t, err)
	other := strings.Replace(storedKeyset, `"value":"GiA3`, `"value":"GiA4`, 1)
	require.NotEqual(t, storedKeyset, other)
	_, err = mustOpen(t, write(t, []byte(other))).Open(t.Context(), exampleBinding(), envelope)
	require.ErrorIs(t, err, sealer.ErrBinding)
}

func TestKeysetOfOtherKeyTypes(t *testing.T) {
	for name, template := range map[string]*tinkpb.KeyTemplate{
		"AES-128-GCM":       aead.AES128GCMKeyTemplate(),
		"ChaCha20-Poly1305": aead.ChaCha20Poly1305KeyTemplate(),
		"MAC":               mac.HMACSHA256Tag256KeyTemplate(),
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, encode(t, newKeyset(t, template, aead.AES256GCMKeyTemplate())))
			_, err := local.Open(path)
			require.ErrorIs(t, err, local.ErrKeyset)
			require.ErrorContains(t, err, path)
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	s := sealertest.New(b)
	secret := sealer.NewSecret([]byte(canary))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Seal(b.Context(), exampleBinding(), secret); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := sealertest.New(b)
	envelope := mustSeal(b, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(b.Context(), exampleBinding(), envelope.Bytes); err != nil {
			b.Fatal(err)
		}
	}
}
