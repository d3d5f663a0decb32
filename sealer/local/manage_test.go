package local_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

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
