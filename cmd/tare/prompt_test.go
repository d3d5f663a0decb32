package main

import (
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/term"
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
