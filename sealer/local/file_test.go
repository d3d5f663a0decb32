package local_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"

	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func requireMode(t *testing.T, want fs.FileMode, path string) {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, want, info.Mode().Perm())
}

// requireAlone requires that path is the only file in its directory.
func requireAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, filepath.Base(path), entries[0].Name())
}

func TestFirstStart(t *testing.T) {
	t.Run("makes a file and directories for the owner alone", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data", "keys")
		path := filepath.Join(dir, "keyset.json")
		mustOpen(t, path)
		requireMode(t, 0o600, path)
		requireMode(t, 0o700, dir)
		requireMode(t, 0o700, filepath.Dir(dir))
		requireAlone(t, path)
	})
	t.Run("works with a relative path", func(t *testing.T) {
		t.Chdir(t.TempDir())
		mustOpen(t, "keyset.json")
		mustOpen(t, "data/keyset.json")
		requireMode(t, 0o600, "data/keyset.json")
	})
	t.Run("leaves the mode of an existing directory", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Chmod(dir, 0o755))
		mustOpen(t, filepath.Join(dir, "keyset.json"))
		requireMode(t, 0o755, dir)
	})
	t.Run("later starts use the same file unchanged", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keyset.json")
		envelope := sealertest.MustSeal(t, mustOpen(t, path))
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		sealertest.RequireOpens(t, mustOpen(t, path), envelope.Bytes)
		again, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, content, again)
	})
	t.Run("reports a directory that cannot be made", func(t *testing.T) {
		_, err := local.Open(filepath.Join(write(t, nil), "keyset.json"))
		require.ErrorIs(t, err, syscall.ENOTDIR)
	})
}

func TestFirstStartOfManyGoroutines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "keyset.json")
	const goroutines = 20
	ids := make([]string, goroutines)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			<-start
			s, err := local.Open(path)
			if err != nil {
				ids[i] = err.Error()
				return
			}
			ids[i], _ = s.PrimaryKEK(t.Context())
		})
	}
	close(start)
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.Regexp(t, `^local:`, ids[0])
	requireAlone(t, path)
}

// envKeyset is the environment variable that names a keyset file for a child process. If it is set,
// TestFirstStartOfManyProcesses only opens the file and prints the primary KEK.
const envKeyset = "AIKEYS_TEST_KEYSET"

func TestFirstStartOfManyProcesses(t *testing.T) {
	if path := os.Getenv(envKeyset); path != "" {
		fmt.Println(primaryOf(t, mustOpen(t, path)))
		return
	}
	path := filepath.Join(t.TempDir(), "data", "keyset.json")
	const processes = 6
	output := make([]string, processes)
	var wg sync.WaitGroup
	for i := range processes {
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFirstStartOfManyProcesses$")
		command.Env = append(os.Environ(), envKeyset+"="+path)
		wg.Go(func() {
			out, _ := command.CombinedOutput()
			output[i] = string(out)
		})
	}
	wg.Wait()
	want := primaryOf(t, mustOpen(t, path)) + "\n"
	for _, got := range output {
		require.True(t, strings.HasPrefix(got, want), got)
	}
	requireAlone(t, path)
}

// A starting process is killed at different moments, while the test reads the file all the time.
func TestFirstStartKilled(t *testing.T) {
	for i := range 20 {
		path := filepath.Join(t.TempDir(), "keyset.json")
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFirstStartOfManyProcesses$")
		command.Env = append(os.Environ(), envKeyset+"="+path)
		require.NoError(t, command.Start())
		ended := make(chan struct{})
		killer := time.AfterFunc(time.Duration(i)*2*time.Millisecond, func() { _ = command.Process.Kill() })
		go func() {
			defer close(ended)
			_ = command.Wait() // it may have been killed or not
		}()
		for running := true; running; {
			select {
			case <-ended:
				running = false
			default:
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) { // it is absent, or whole
				require.NoError(t, err)
				mustOpen(t, path)
			}
		}
		killer.Stop()
		sealertest.MustSeal(t, mustOpen(t, path)) // the next start works, whatever the killed one left behind
	}
}

func TestFirstStartIgnoresLeftovers(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".keyset-1.tmp"), []byte(`{"primaryKeyId":1,`), 0o600))
	path := filepath.Join(dir, "keyset.json")
	sealertest.RequireOpens(t, mustOpen(t, path), sealertest.MustSeal(t, mustOpen(t, path)).Bytes)
}

func TestInsecureFile(t *testing.T) {
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o660, 0o666, 0o777} {
		t.Run(mode.String(), func(t *testing.T) {
			path := write(t, encode(t, newKeyset(t, aead.AES256GCMKeyTemplate())))
			require.NoError(t, os.Chmod(path, mode))
			_, err := local.Open(path)
			require.ErrorIs(t, err, local.ErrInsecureFile)
			require.ErrorContains(t, err, fmt.Sprintf("%q has mode %#o", path, mode))
			require.ErrorContains(t, err, fmt.Sprintf("chmod 600 %q", path))
			requireMode(t, mode, path)
		})
	}
	t.Run("not a regular file", func(t *testing.T) {
		dir := t.TempDir()
		_, err := local.Open(dir)
		require.ErrorIs(t, err, local.ErrInsecureFile)

		pipe := filepath.Join(dir, "pipe")
		require.NoError(t, syscall.Mkfifo(pipe, 0o600))
		_, err = local.Open(pipe)
		require.ErrorIs(t, err, local.ErrInsecureFile)
	})
	t.Run("the owner may be kept from writing", func(t *testing.T) {
		path := write(t, encode(t, newKeyset(t, aead.AES256GCMKeyTemplate())))
		require.NoError(t, os.Chmod(path, 0o400))
		mustOpen(t, path)
	})
}

func TestSymbolicLink(t *testing.T) {
	link := func(t *testing.T, target string) string {
		path := filepath.Join(t.TempDir(), "keyset.json")
		require.NoError(t, os.Symlink(target, path))
		return path
	}
	t.Run("secure", func(t *testing.T) {
		path := write(t, encode(t, newKeyset(t, aead.AES256GCMKeyTemplate())))
		sealertest.RequireOpens(t, mustOpen(t, link(t, path)), sealertest.MustSeal(t, mustOpen(t, path)).Bytes)
	})
	t.Run("insecure", func(t *testing.T) {
		path := write(t, encode(t, newKeyset(t, aead.AES256GCMKeyTemplate())))
		require.NoError(t, os.Chmod(path, 0o644))
		_, err := local.Open(link(t, path))
		require.ErrorIs(t, err, local.ErrInsecureFile)
	})
	t.Run("to nothing", func(t *testing.T) {
		target := filepath.Join(t.TempDir(), "elsewhere.json")
		_, err := local.Open(link(t, target))
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, "symbolic link")
		require.NoFileExists(t, target)
	})
}

func TestDamagedFile(t *testing.T) {
	whole := string(encode(t, newKeyset(t, aead.AES256GCMKeyTemplate())))
	for name, content := range map[string]string{
		"empty":         "",
		"white space":   "\n",
		"cut off":       whole[:len(whole)-10],
		"not JSON":      "keyset",
		"other JSON":    `{"secret":"` + sealertest.Secret + `"}`,
		"no keys":       `{"primaryKeyId":1,"key":[]}`,
		"no primary":    strings.Replace(whole, `"primaryKeyId"`, `"primaryKeyId":1,"primary_key_id"`, 1),
		"twice":         whole + whole,
		"short key":     strings.Replace(storedKeyset, "GiA3b9a4o8hPyVIMYD7tw9QZdNskuPoKXmgCrxmJoYLpFw==", "GgEB", 1),
		"unknown type":  strings.Replace(whole, "AesGcmKey", "NoSuchKey", 1),
		"disabled":      strings.Replace(whole, `"ENABLED"`, `"DISABLED"`, 1),
		"beyond limits": whole + strings.Repeat(" ", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, whole, content)
			path := write(t, []byte(content))
			_, err := local.Open(path)
			require.ErrorIs(t, err, local.ErrKeyset)
			require.ErrorContains(t, err, path)
			require.NotContains(t, err.Error(), sealertest.Secret)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, string(after))
			requireAlone(t, path)
		})
	}
}
