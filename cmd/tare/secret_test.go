package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/secret"
)

// blockedReader never returns from Read. It is closed when Read is called.
type blockedReader chan struct{}

func (s blockedReader) Read([]byte) (int, error) {
	close(s)
	select {}
}

func TestSecretSources(t *testing.T) {
	u := alice(t)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(testSecret+"\r\n"), 0o600))
	add := []string{"api", "byok", "add", "--provider", "openai", "--user-scope", "--name"}
	for name, tc := range map[string]struct {
		stdin string
		flags []string
		want  int
	}{
		"a pipe":                   {stdin: testSecret, want: exitOK},
		"a pipe with a line end":   {stdin: testSecret + "\n", want: exitOK},
		"a file":                   {flags: []string{"--secret-file", file}, want: exitOK},
		"standard input by name":   {stdin: testSecret, flags: []string{"--secret-file", "-"}, want: exitOK},
		"nothing":                  {want: exitUsage},
		"an empty line":            {stdin: "\n", want: exitUsage},
		"a file that there is not": {flags: []string{"--secret-file", "hunter2"}, want: exitUsage},
		"a folder":                 {flags: []string{"--secret-file", t.TempDir()}, want: exitUsage},
		"two at once":              {flags: []string{"--secret-file", file, "--secret", testSecret}, want: exitUsage},
		"an empty flag":            {flags: []string{"--secret", ""}, want: exitUsage},
		"too much":                 {stdin: strings.Repeat("hunter2", 3000), want: exitUsage},
	} {
		t.Run(name, func(t *testing.T) {
			got := u.runWithInput(tc.stdin, append(append([]string{}, append(add, name)...), tc.flags...)...)
			require.Equal(t, tc.want, got.code, got.all())
			require.NotContains(t, got.all(), "hunter2")
			if id := keyIDPattern.FindString(got.stdout); id != "" {
				require.Contains(t, got.stdout, "…ter2", "without its line end")
				u.revokeKey(id)
			}
		})
	}
}

func TestFileThatOthersCanReadIsPointedOut(t *testing.T) {
	u := alice(t)
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(testSecret), 0o600))
	require.NoError(t, os.Chmod(file, 0o644))
	got := u.runWithInput("", "api", "byok", "add", "--provider", "openai", "--user-scope", "--name", "readable", "--secret-file", file)
	require.Equal(t, exitOK, got.code, got.all())
	require.Contains(t, got.stderr, "others on this machine can read the file of --secret-file")
	u.revokeKey(keyIDPattern.FindString(got.stdout))
}

func TestStructsHideTheAPIKey(t *testing.T) {
	s := secret.New("hunter2")
	for _, verb := range []string{"%v", "%s", "%q", "%x", "%d", "%+v", "%#v"} {
		require.Equal(t, redacted, fmt.Sprintf(verb, s))
		require.NotContains(t, fmt.Sprintf(verb, profile{APIKey: s}), "hunter2")
		require.NotContains(t, fmt.Sprintf(verb, access{apiKey: s}), "hunter2")
		require.NotContains(t, fmt.Sprintf(verb, session{access: access{apiKey: s}}), "hunter2")
	}
}

func TestSignalEndsTheWaitForAPipe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stdin, code := make(blockedReader), make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		code <- run(ctx, strings.Fields("api byok add --provider openai --name never"), alice(t).env, stdin, &stdout, &stderr)
	}()
	<-stdin
	cancel()
	require.Equal(t, exitStopped, <-code)
	require.Equal(t, "tare: stopped\n", stderr.String())
}
