package docsite_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"html"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/docsite"
)

// packed returns a folder with SDKs and files that must not be served.
func packed(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "dist")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	for name, body := range map[string]string{
		"agentrouter-go-0.1.0.tar.gz": "old", "agentrouter-go-0.10.0.tar.gz": "newest", "agentrouter-go-0.9.1.tar.gz": "older",
		"agentrouter-typescript-1.2.3.tar.gz": "typescript", "notes.txt": "notes", "agentrouter-go-1.tar.gz.bak": "notes",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600))
	}
	return dir
}

func TestNewestSDKsAreServed(t *testing.T) {
	s := start(t, docsite.Config{Downloads: packed(t)})
	page := s.get(t, "/docs/sdks").body
	for name, body := range map[string]string{"agentrouter-go-0.10.0.tar.gz": "newest", "agentrouter-typescript-1.2.3.tar.gz": "typescript"} {
		got := s.get(t, "/docs/downloads/"+name)
		require.Equal(t, http.StatusOK, got.StatusCode)
		require.Equal(t, body, got.body)
		require.Equal(t, "application/gzip", got.Header.Get("Content-Type"))
		require.Equal(t, `attachment; filename="`+name+`"`, got.Header.Get("Content-Disposition"))
		require.Contains(t, page, fmt.Sprintf("%x", sha256.Sum256([]byte(body))))
		require.Contains(t, page, "curl -sSfO "+s.URL+"/docs/downloads/"+name)
	}
	require.Contains(t, page, "go mod edit -require github.com/tetrateio/agentrouter-go@v0.10.0")
	require.Contains(t, page, "npm install ./third_party/agentrouter-typescript-1.2.3")
	require.NotContains(t, page, "pip install")
	require.NotContains(t, page, "has no downloads")
	for _, name := range []string{"agentrouter-go-0.1.0.tar.gz", "agentrouter-go-0.9.1.tar.gz", "notes.txt"} {
		require.Equal(t, http.StatusNotFound, s.get(t, "/docs/downloads/"+name).StatusCode, name)
	}
}

func TestPageWithoutDownloads(t *testing.T) {
	for name, folder := range map[string]string{"no folder": "", "an empty folder": t.TempDir()} {
		page := start(t, docsite.Config{Downloads: folder}).get(t, "/docs/sdks").body
		require.Contains(t, page, "has no downloads", name)
		require.Contains(t, page, "make dist")
		require.Contains(t, page, "AIKEYS_DOWNLOADS")
		require.NotContains(t, page, "curl -sSfO")
	}
}

// addProgram writes a file as "make dist" names it, with its hash beside it.
func addProgram(t *testing.T, dir, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("is "+name), 0o600))
	sum := fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte("is "+name)), name)
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".sha256"), []byte(sum), 0o600))
}

func TestNewestProgramsAreServed(t *testing.T) {
	dir := packed(t)
	newest := []string{
		"aikeys-1.10.0-linux-amd64.tar.gz", "aikeys-1.10.0-darwin-arm64.tar.gz", "tare-1.2.0+12.gabc1234567-windows-amd64.zip",
		"tare-1.10.0-linux-amd64.tar.gz", "aikeysd_1.10.0_amd64.deb", "tare_1.10.0_arm64.deb",
	}
	other := []string{
		"aikeys-1.9.0-linux-amd64.tar.gz", "tare-1.2.0+9.gabc1234567-windows-amd64.zip", "tare-1.2.0-windows-amd64.zip",
		"aikeys-1.10.0-plan9-amd64.tar.gz", "aikeys-latest-linux-amd64.tar.gz", "other_1.10.0_amd64.deb",
	}
	for _, name := range append(slices.Clone(newest), other...) {
		addProgram(t, dir, name)
	}
	s := start(t, docsite.Config{Downloads: dir})
	page := s.get(t, "/docs/downloads").body
	for _, name := range newest {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			got := s.ask(t, method, "/docs/downloads/"+name)
			require.Equal(t, http.StatusOK, got.StatusCode, name)
			require.Equal(t, method == http.MethodGet, got.body == "is "+name)
			require.Equal(t, `attachment; filename="`+name+`"`, got.Header.Get("Content-Disposition"))
			require.Equal(t, "nosniff", got.Header.Get("X-Content-Type-Options"))
		}
		require.Equal(t, "is", s.get(t, "/docs/downloads/"+name, "Range", "bytes=0-1").body, "a download can be resumed")
		require.Contains(t, html.UnescapeString(page), s.URL+"/docs/downloads/"+name)
		require.Contains(t, page, fmt.Sprintf("%x", sha256.Sum256([]byte("is "+name))))
	}
	for _, name := range append(other, newest[0]+".sha256") {
		require.Equal(t, http.StatusNotFound, s.get(t, "/docs/downloads/"+name).StatusCode, name)
	}
	require.Contains(t, page, "tare login --base-url "+s.URL)

	addProgram(t, dir, newest[0])
	require.NoError(t, os.WriteFile(filepath.Join(dir, newest[0]), []byte("another file"), 0o600))
	require.Equal(t, http.StatusNotFound, s.get(t, "/docs/downloads/"+newest[0]).StatusCode, "it is not the file of the hash")
}

func TestInvalidProgramsFailNew(t *testing.T) {
	const name = "tare-9.9.9-linux-amd64.tar.gz"
	for what, spoil := range map[string]func(dir string) error{
		"no hash": func(dir string) error { return os.Remove(filepath.Join(dir, name+".sha256")) },
		"another file's hash": func(dir string) error {
			return os.Rename(filepath.Join(dir, "tare-0.1.0-linux-arm64.tar.gz.sha256"), filepath.Join(dir, name+".sha256"))
		},
		"an empty file": func(dir string) error { return os.Truncate(filepath.Join(dir, name), 0) },
		"a link out of the folder": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, name)), os.Symlink("../secret", filepath.Join(dir, name)))
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := packed(t)
			addProgram(t, dir, name)
			addProgram(t, dir, "tare-0.1.0-linux-arm64.tar.gz")
			require.NoError(t, spoil(dir))
			_, err := docsite.New(docsite.Config{Downloads: dir})
			require.ErrorIs(t, err, docsite.ErrDownloads)
		})
	}
}

func TestInvalidDownloadsFailNew(t *testing.T) {
	const name = "agentrouter-go-9.9.9.tar.gz"
	for what, spoil := range map[string]func(dir string) error{
		"a link out of the folder": func(dir string) error { return os.Symlink("../secret", filepath.Join(dir, name)) },
		"an absolute link":         func(dir string) error { return os.Symlink("/etc/hostname", filepath.Join(dir, name)) },
		"a folder":                 func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o700) },
		"an empty file":            func(dir string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) },
		"a huge file": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), 8<<20+1), 0o600)
		},
		"nothing at all": os.RemoveAll,
	} {
		t.Run(what, func(t *testing.T) {
			dir := packed(t)
			require.NoError(t, spoil(dir))
			_, err := docsite.New(docsite.Config{Downloads: dir})
			require.ErrorIs(t, err, docsite.ErrDownloads)
		})
	}
}

// The name on PyPI is somebody else's: the page leads to our archive by its URL and hash, and warns.
func TestPythonSDKInstallsByURLWithItsHash(t *testing.T) {
	dir := packed(t)
	const name = "agentrouter-python-0.1.1.tar.gz"
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("python"), 0o600))
	s := start(t, docsite.Config{Downloads: dir})
	page := s.get(t, "/docs/sdks").body
	require.Contains(t, page, fmt.Sprintf("pip install 'agentrouter-sdk @ %s/docs/downloads/%s#sha256=%x'", s.URL, name, sha256.Sum256([]byte("python"))))
	require.Contains(t, page, "belongs to somebody else's package")
}
