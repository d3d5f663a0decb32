package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestKeyLifecycle(t *testing.T) {
	u := alice(t)
	u.env = append(u.env, "PROVIDER=openai", "NAME=reference", "SECRET="+testSecret)
	got := u.run("api", "byok", "add", "--provider", "openai", "--name", "reference", "--secret", testSecret)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "warning: --secret is visible in process lists")
	require.NotContains(t, got.all(), "hunter2")
	id := keyIDPattern.FindString(got.stdout)

	require.Contains(t, u.runOK("api", "byok", "get", id), "…ter2")
	require.Contains(t, u.runOK("api", "byok", "list"), id)
	require.Regexp(t, `complete: 1 of 1 data planes confirmed, slowest \d+ ms`, u.runOK("api", "byok", "remove", id))
	require.Regexp(t, `State +revoked`, u.runOK("api", "byok", "get", id))
	require.Contains(t, u.runOK("api", "byok", "remove", id), "complete", "revoking again is safe")
}

func TestCredentialDocumentFromAFile(t *testing.T) {
	u := alice(t)
	document := "{\n  \"base_url\": \"https://x\"\n}\n"
	file := filepath.Join(t.TempDir(), "credential.json")
	require.NoError(t, os.WriteFile(file, []byte(document), 0o600))
	got := u.run("api", "byok", "add", "--provider", "azure_openai", "--name", "azure", "--secret-file", file)
	require.Equal(t, exitUsage, got.code)
	require.NotContains(t, got.stderr, "see errors", "it says what is wrong, and where")
}

func TestIdempotencyKey(t *testing.T) {
	u := alice(t)
	id := u.addKey("repeat", "--idempotency-key", "tare-1")
	require.Equal(t, id, u.addKey("repeat", "--idempotency-key", "tare-1"))
}
