package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDevShowsThePagesAndOffersTheSDKsThatArePacked(t *testing.T) {
	dir := t.TempDir()
	const sdk = "agentrouter-go-1.2.3.tar.gz"
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dist"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dist", sdk), []byte("packed"), 0o600))
	t.Chdir(dir)
	s := startDev(t, filepath.Join(dir, "data"))
	for path, shows := range map[string]string{
		"/docs": "Register an AI key", "/docs/getting-started": "export AGENTROUTER_BASE_URL=" + s.api, "/docs/sdks": sdk,
		"/openapi.yaml": "- url: " + s.api, "/problems/not-found": "not_found", "/docs/downloads/" + sdk: "packed",
	} {
		require.Contains(t, page(t, s.api+path), shows, path)
	}
	require.Contains(t, s.stdout.String(), s.api+"/docs")
	require.Equal(t, exitOK, s.wait())
}

func page(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	require.Equal(t, http.StatusOK, response.StatusCode, url)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

func TestAFolderOfDownloadsThatIsNotThereIsToldWithItsSetting(t *testing.T) {
	got := aikeysd(t, []string{"AIKEYS_DOWNLOADS=" + filepath.Join(t.TempDir(), "none")}, "dev",
		"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--dataplane-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	require.NotEqual(t, exitOK, got.code)
	require.Contains(t, got.stderr, "AIKEYS_DOWNLOADS: can't read the downloads")
}
