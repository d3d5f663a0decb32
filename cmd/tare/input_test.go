package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/term"

	"github.com/agentrouter/aikeys/internal/secret"
)

func TestSecretPrompt(t *testing.T) {
	u := alice(t)
	s := u.runInTerminal(100, "api byok add --provider openai --name asked")
	s.expect("https://platform.openai.com/api-keys").expect("Key of OpenAI (not shown): ").typeKeys(testSecret + "\n")
	code, shown := s.wait()
	require.Equal(t, exitOK, code, shown)
	require.NotContains(t, shown, "hunter2")
	require.Contains(t, shown, "…ter2")
	u.revokeKey(keyIDPattern.FindString(shown))
}

func TestProviderIsCheckedBeforeThePrompt(t *testing.T) {
	code, shown := alice(t).runInTerminal(100, "api byok add --provider opnai --name x").wait()
	require.Equal(t, exitUsage, code)
	require.Contains(t, shown, "Did you mean openai?")
	code, shown = alice(t).runInTerminal(100, "api byok add --provider vertex --name x").wait()
	require.Equal(t, exitUsage, code)
	require.Contains(t, shown, "JSON document")
	require.Contains(t, shown, "--secret-file")
}

func TestCtrlCRestoresTheTerminal(t *testing.T) {
	u := alice(t)
	_, fresh, err := pty.Open()
	require.NoError(t, err)
	usual, err := term.GetState(int(fresh.Fd()))
	require.NoError(t, err)
	for command, prompt := range map[string]string{
		"api byok add --provider openai --name never": "(not shown): ",
		"api members remove bob":                      "[y/N] ",
	} {
		s := u.runInTerminal(100, strings.Fields(command)...).expect(prompt).typeKeys("\x03")
		code, shown := s.wait()
		require.Equal(t, exitStopped, code, shown)
		require.Contains(t, shown, "stopped")
		left, err := term.GetState(int(s.tty.Fd()))
		require.NoError(t, err)
		require.Equal(t, usual, left)
	}
}

func TestCtrlDAtAHiddenPrompt(t *testing.T) {
	u := alice(t)
	_, fresh, err := pty.Open()
	require.NoError(t, err)
	usual, err := term.GetState(int(fresh.Fd()))
	require.NoError(t, err)
	for _, keys := range []string{"\x04", "hunter2\x04\x04"} {
		for _, command := range []string{"api byok add --provider openai --name never", "login --profile never --base-url http://127.0.0.1:1"} {
			s := u.runInTerminal(100, strings.Fields(command)...).expect("(not shown): ").typeKeys(keys)
			code, shown := s.wait()
			require.Equal(t, exitDeclined, code, shown)
			require.Contains(t, shown, "tare: the input was ended (Ctrl-D) before an answer: nothing was done\n")
			require.NotContains(t, shown, "hunter2")
			left, err := term.GetState(int(s.tty.Fd()))
			require.NoError(t, err)
			require.Equal(t, usual, left)
		}
	}
}

func TestBackspaceAtAHiddenPrompt(t *testing.T) {
	u := alice(t)
	s := u.runInTerminal(100, "api byok add --provider openai --name corrected").expect("(not shown): ")
	code, shown := s.typeKeys("\b" + testSecret + "x\b\n").wait()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "…ter2")
	u.revokeKey(keyIDPattern.FindString(shown))
}

func TestSignalRestoresTheTerminal(t *testing.T) {
	_, fresh, err := pty.Open()
	require.NoError(t, err)
	usual, err := term.GetState(int(fresh.Fd()))
	require.NoError(t, err)
	for _, signal := range []os.Signal{syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM} {
		s := alice(t).runInTerminal(100, "api byok add --provider openai --name never")
		require.Eventually(t, func() bool {
			now, err := term.GetState(int(s.tty.Fd()))
			return err == nil && !reflect.DeepEqual(usual, now)
		}, testTimeout, time.Millisecond, "it never hides what is typed")
		require.NoError(t, s.cmd.Process.Signal(signal))
		code, shown := s.wait()
		require.Equal(t, exitStopped, code, shown)
		left, err := term.GetState(int(s.tty.Fd()))
		require.NoError(t, err)
		require.Equal(t, usual, left, signal)
	}
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
			require.Equal(t, tc.want, got.Code, got.Output())
			require.NotContains(t, got.Output(), "hunter2")
			if id := keyIDPattern.FindString(got.Stdout); id != "" {
				require.Contains(t, got.Stdout, "…ter2", "without its line end")
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
	require.Equal(t, exitOK, got.Code, got.Output())
	require.Contains(t, got.Stderr, "others on this machine can read the file of --secret-file")
	u.revokeKey(keyIDPattern.FindString(got.Stdout))
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
	stdin, writer := io.Pipe()
	code := make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		code <- run(ctx, strings.Fields("api byok add --provider openai --name never"), alice(t).env, stdin, &stdout, &stderr)
	}()
	_, err := writer.Write([]byte("s")) // returns once it is read
	require.NoError(t, err)
	cancel()
	require.Equal(t, exitStopped, <-code)
	require.Equal(t, "tare: stopped\n", stderr.String())
}
