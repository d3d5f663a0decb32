package local_test

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// storedKeyset is a keyset of the first release.
const storedKeyset = `{"primaryKeyId":3919375459,"key":[{"keyData":{
	"typeUrl":"type.googleapis.com/google.crypto.tink.AesGcmKey",
	"value":"GiA3b9a4o8hPyVIMYD7tw9QZdNskuPoKXmgCrxmJoYLpFw==","keyMaterialType":"SYMMETRIC"},"status":"ENABLED",
	"keyId":3919375459,"outputPrefixType":"TINK"}]}`

// Later releases must open what the first one stored.
func TestStoredEnvelopesOpenForever(t *testing.T) {
	const storedHex = "010e6c6f63616c3a6539396365633633004101e99cec63698b615adb0d946dc856d00b3a177b33dab37aa93085a69f587115" +
		"ccf3f7b6203afd3d690f77836b26dfb435ea13679f2d6dd03460eeb3909069d1bacea6851390e5131b742081ef055156a95c" +
		"752eb0f91fcc1533ed05a76c8b6566530c7b017398ed7068def74b11953fe3"
	s := mustOpen(t, write(t, []byte(storedKeyset)))
	envelope, err := hex.DecodeString(storedHex)
	require.NoError(t, err)
	secret, err := s.Open(t.Context(), sealer.Binding{CustomerID: "acme", ProjectID: "p1", KeyID: "byok_1", Provider: "openai", Version: 1}, envelope)
	require.NoError(t, err)
	require.Equal(t, "sk-canary-0123456789", string(secret.Reveal()))

	kekID, err := sealer.KEKIDOf(envelope)
	require.NoError(t, err)
	require.Equal(t, "local:e99cec63", kekID)
	require.Equal(t, kekID, primaryOf(t, s))
}

func TestKEKID(t *testing.T) {
	require.Regexp(t, `^local:[0-9a-f]{8}$`, sealertest.MustSeal(t, sealertest.New(t)).KEKID)

	padded := strings.ReplaceAll(storedKeyset, "3919375459", "171")
	require.Equal(t, "local:000000ab", primaryOf(t, mustOpen(t, write(t, []byte(padded)))))
}

func TestDisabledKEKIsUnknown(t *testing.T) {
	manager := newKeyset(t, aead.AES256GCMKeyTemplate())
	before, err := manager.Handle()
	require.NoError(t, err)
	envelope := sealertest.MustSeal(t, mustOpen(t, write(t, encode(t, manager))))

	addPrimary(t, manager, aead.AES256GCMKeyTemplate())
	require.NoError(t, manager.Disable(before.KeysetInfo().GetPrimaryKeyId()))
	s := mustOpen(t, write(t, encode(t, manager)))
	_, err = s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	require.ErrorContains(t, err, envelope.KEKID)

	require.NoError(t, manager.Enable(before.KeysetInfo().GetPrimaryKeyId()))
	sealertest.RequireOpens(t, mustOpen(t, write(t, encode(t, manager))), envelope.Bytes)
}

// Two installations whose KEKs have the same id by chance must not be able to open each other's envelopes.
func TestSameKEKIDWithAnotherKey(t *testing.T) {
	envelope := sealertest.MustSeal(t, mustOpen(t, write(t, []byte(storedKeyset))))
	other := strings.Replace(storedKeyset, `"value":"GiA3`, `"value":"GiA4`, 1)
	require.NotEqual(t, storedKeyset, other)
	_, err := mustOpen(t, write(t, []byte(other))).Open(t.Context(), sealertest.Binding(), envelope.Bytes)
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
	secret := sealer.NewSecret([]byte(sealertest.Secret))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Seal(b.Context(), sealertest.Binding(), secret); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := sealertest.New(b)
	envelope := sealertest.MustSeal(b, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(b.Context(), sealertest.Binding(), envelope.Bytes); err != nil {
			b.Fatal(err)
		}
	}
}

func mustOpenLogged(t *testing.T, path string) (*local.Sealer, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{} // written by the calls of the sealer, which follow one another
	s, err := local.OpenWith(path, local.Options{MustExist: true, Log: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	return s, log
}

func primaryOf(t *testing.T, s sealer.Sealer) string {
	t.Helper()
	id, err := s.PrimaryKEK(t.Context())
	require.NoError(t, err)
	return id
}

func TestOpenMustExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "keyset.json")
	_, err := local.OpenWith(path, local.Options{MustExist: true})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoDirExists(t, filepath.Dir(path))
}

func TestUnknownKEKReadsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	add(t, path)
	s := mustOpen(t, path)
	require.NoError(t, local.SetPrimary(path, add(t, path)))
	sealertest.RequireOpens(t, s, sealertest.MustSeal(t, mustOpen(t, path)).Bytes)
}

func TestChangedFileIsReadAgain(t *testing.T) {
	const soon, often = 10 * time.Second, 10 * time.Millisecond // longer than a change may take to be seen, with room for a busy machine
	path := filepath.Join(t.TempDir(), "keyset.json")
	first := add(t, path)
	s, log := mustOpenLogged(t, path)
	old := sealertest.MustSeal(t, s)
	second := add(t, path)
	require.NoError(t, local.SetPrimary(path, second))
	require.Eventually(t, func() bool { return primaryOf(t, s) == second }, soon, often)
	require.Contains(t, log.String(), "a file has changed and was read again")

	require.NoError(t, local.Retire(path, first))
	require.Eventually(t, func() bool {
		_, err := s.Open(t.Context(), sealertest.Binding(), old.Bytes)
		return err != nil
	}, soon, often)
	keks, err := s.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{primary(second), retired(first)}, keks)

	require.NoError(t, local.Enable(path, first))
	sealertest.RequireOpens(t, s, old.Bytes)
}

func TestBrokenFileKeepsTheOldKEKs(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"gone":     func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"empty":    func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) },
		"cut off":  func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 100)) },
		"readable": func(t *testing.T, path string) { require.NoError(t, os.Chmod(path, 0o644)) },
		"other": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte(sealertest.Secret), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "keyset.json")
			first := add(t, path)
			whole, err := os.ReadFile(path)
			require.NoError(t, err)
			s, log := mustOpenLogged(t, path)
			envelope := sealertest.MustSeal(t, s)

			spoil(t, path)
			if name == "readable" { // its content and time are unchanged, so this makes the sealer read it again
				now := time.Now()
				require.NoError(t, os.Chtimes(path, now, now))
			}
			require.Error(t, s.Check(t.Context()))
			require.Error(t, s.Check(t.Context()))
			sealertest.RequireOpens(t, s, envelope.Bytes)
			require.Equal(t, first, sealertest.MustSeal(t, s).KEKID)
			require.Equal(t, 1, strings.Count(log.String(), "the old one stays in force"), "%s", log)
			require.NotContains(t, log.String(), sealertest.Secret)

			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, os.WriteFile(path, whole, 0o600))
			require.NoError(t, s.Check(t.Context()))
			require.Contains(t, log.String(), "a file has changed and was read again")
		})
	}
}

// Sixteen callers seal and open while keys are created, made primary and retired: none of them notices.
func TestRotationDuringTraffic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	add(t, path)
	s, err := local.OpenWith(path, local.Options{MustExist: true})
	require.NoError(t, err)
	const callers, rotations = 16, 8
	var stop atomic.Bool
	errs := make(chan error, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for !stop.Load() {
				envelope, err := s.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
				if err == nil {
					_, err = s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var keks []string
	for range rotations {
		id := add(t, path)
		require.NoError(t, local.SetPrimary(path, id))
		require.NoError(t, s.Check(t.Context())) // reads the file now
		require.Equal(t, id, primaryOf(t, s))
		keks = append(keks, id)
	}
	stop.Store(true)
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, keks[rotations-1], sealertest.MustSeal(t, s).KEKID)
}

func add(t testing.TB, path string) string {
	t.Helper()
	id, err := local.AddKEK(path)
	require.NoError(t, err)
	return id
}

func requireKEKs(t testing.TB, path string, want ...sealer.KEK) {
	t.Helper()
	keks, err := local.List(path)
	require.NoError(t, err)
	require.Equal(t, want, keks)
}

func primary(id string) sealer.KEK { return sealer.KEK{ID: id, State: sealer.KEKPrimary} }
func enabled(id string) sealer.KEK { return sealer.KEK{ID: id, State: sealer.KEKEnabled} }
func retired(id string) sealer.KEK { return sealer.KEK{ID: id, State: sealer.KEKRetired} }

func TestKEKLifecycle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "main.json")
	first := add(t, path)
	requireKEKs(t, path, primary(first))
	requireMode(t, 0o600, path)
	requireMode(t, 0o700, filepath.Dir(path))
	old := sealertest.MustSeal(t, mustOpen(t, path))

	second := add(t, path)
	requireKEKs(t, path, primary(first), enabled(second))
	require.Equal(t, first, sealertest.MustSeal(t, mustOpen(t, path)).KEKID, "a new KEK seals nothing yet")

	require.NoError(t, local.SetPrimary(path, second))
	requireKEKs(t, path, primary(second), enabled(first))
	require.Equal(t, second, sealertest.MustSeal(t, mustOpen(t, path)).KEKID)
	sealertest.RequireOpens(t, mustOpen(t, path), old.Bytes)

	require.NoError(t, local.Retire(path, first))
	requireKEKs(t, path, primary(second), retired(first))
	_, err := mustOpen(t, path).Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)

	require.NoError(t, local.Enable(path, first))
	requireKEKs(t, path, primary(second), enabled(first))
	sealertest.RequireOpens(t, mustOpen(t, path), old.Bytes)
	requireMode(t, 0o600, path)
	requireAlone(t, path)
}

func TestManageErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	first := add(t, path)
	second := add(t, path)
	require.NoError(t, local.Retire(path, second))
	before, err := os.ReadFile(path)
	require.NoError(t, err)

	require.ErrorIs(t, local.Retire(path, first), local.ErrPrimary)
	require.ErrorIs(t, local.SetPrimary(path, second), local.ErrRetired)
	for _, id := range []string{"", "local:", "local:00000000", "local:" + first, "kms:1", first + "0"} {
		for _, change := range []func(path, id string) error{local.SetPrimary, local.Retire, local.Enable} {
			require.ErrorIs(t, change(path, id), sealer.ErrUnknownKEK, id)
		}
	}
	require.NoError(t, local.Enable(path, first), "what is so already is fine")
	require.NoError(t, local.SetPrimary(path, first))
	require.NoError(t, local.Retire(path, second))
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))

	missing := filepath.Join(t.TempDir(), "keyset.json")
	_, err = local.List(missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, local.SetPrimary(missing, first), fs.ErrNotExist)
	require.NoFileExists(t, missing)
}

func TestAddKEKToAnInvalidKeyset(t *testing.T) {
	for name, path := range map[string]string{
		"damaged":         write(t, []byte(`{"primaryKeyId":1,`)),
		"of another type": write(t, encode(t, newKeyset(t, aead.ChaCha20Poly1305KeyTemplate()))),
	} {
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		_, err = local.AddKEK(path)
		require.ErrorIs(t, err, local.ErrKeyset, name)
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, before, after, name)
		requireAlone(t, path)
	}
	path := write(t, encode(t, newKeyset(t, aead.AES256GCMKeyTemplate())))
	require.NoError(t, os.Chmod(path, 0o644))
	_, err := local.AddKEK(path)
	require.ErrorIs(t, err, local.ErrInsecureFile)
}

func TestAddKEKConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	const goroutines = 16
	ids := make([]string, goroutines)
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() { ids[i], _ = local.AddKEK(path) })
	}
	wg.Wait()
	keks, err := local.List(path)
	require.NoError(t, err)
	found := map[string]bool{}
	for _, kek := range keks {
		found[kek.ID] = true
	}
	for _, id := range ids {
		require.True(t, found[id], "%q is in the keyset", id)
	}
	requireAlone(t, path)
}

func TestManageThroughASymbolicLink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	first := add(t, path)
	link := filepath.Join(t.TempDir(), "link.json")
	require.NoError(t, os.Symlink(path, link))
	second := add(t, link)
	requireKEKs(t, path, primary(first), enabled(second))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	require.Equal(t, fs.ModeSymlink, info.Mode().Type())
}

func TestManageKeepsTheMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	add(t, path)
	require.NoError(t, os.Chmod(path, 0o400))
	add(t, path)
	requireMode(t, 0o400, path)
}
