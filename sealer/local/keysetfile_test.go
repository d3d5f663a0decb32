package local_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// soon is longer than a change may take to be seen, with room for a busy machine.
const soon, often = 10 * time.Second, 10 * time.Millisecond

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
	requireOpens(t, s, mustSeal(t, mustOpen(t, path)).Bytes)
}

func TestChangedFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	first := add(t, path)
	s, log := mustOpenLogged(t, path)
	old := mustSeal(t, s)
	second := add(t, path)
	require.NoError(t, local.SetPrimary(path, second))
	require.Eventually(t, func() bool { return primaryOf(t, s) == second }, soon, often)
	require.Contains(t, log.String(), "a file has changed and was read again")

	require.NoError(t, local.Retire(path, first))
	require.Eventually(t, func() bool {
		_, err := s.Open(t.Context(), exampleBinding(), old.Bytes)
		return err != nil
	}, soon, often)
	keks, err := s.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{primary(second), retired(first)}, keks)

	require.NoError(t, local.Enable(path, first))
	requireOpens(t, s, old.Bytes)
}

func TestBrokenFileKeepsTheOldKEKs(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"gone":     func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"empty":    func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) },
		"cut off":  func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 100)) },
		"readable": func(t *testing.T, path string) { require.NoError(t, os.Chmod(path, 0o644)) },
		"other":    func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte(canary), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "keyset.json")
			first := add(t, path)
			whole, err := os.ReadFile(path)
			require.NoError(t, err)
			s, log := mustOpenLogged(t, path)
			envelope := mustSeal(t, s)

			spoil(t, path)
			if name == "readable" { // its content and time are as before, so only a change shows it
				now := time.Now()
				require.NoError(t, os.Chtimes(path, now, now))
			}
			require.Error(t, s.Check(t.Context()))
			require.Error(t, s.Check(t.Context()))
			requireOpens(t, s, envelope.Bytes)
			require.Equal(t, first, mustSeal(t, s).KEKID)
			require.Equal(t, 1, strings.Count(log.String(), "the old one stays in force"), "%s", log)
			require.NotContains(t, log.String(), canary)

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
				envelope, err := s.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
				if err == nil {
					_, err = s.Open(t.Context(), exampleBinding(), envelope.Bytes)
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
	require.Equal(t, keks[rotations-1], mustSeal(t, s).KEKID)
}
