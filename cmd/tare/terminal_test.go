package main

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clipperhouse/displaywidth"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/term"
)

// controlCodes are what colours and the progress line are made of.
var controlCodes = regexp.MustCompile(`\x1b\[[0-9;]*[mK]`)

func TestASecretIsAskedForAndNotShown(t *testing.T) {
	u := alice(t)
	s := u.at(100, "api byok add --provider openai --name asked")
	s.expect("https://platform.openai.com/api-keys").expect("Key of OpenAI (not shown): ").types(aSecret + "\n")
	code, shown := s.ends()
	require.Equal(t, exitOK, code, shown)
	require.NotContains(t, shown, "hunter2")
	require.Contains(t, shown, "…ter2")
	u.revoke(anyKeyID.FindString(shown))
}

func TestAProviderThatThereIsNotIsRefusedBeforeAnybodyTypesASecret(t *testing.T) {
	code, shown := alice(t).at(100, "api byok add --provider opnai --name x").ends()
	require.Equal(t, exitUsage, code)
	require.Contains(t, shown, "Did you mean openai?")
	code, shown = alice(t).at(100, "api byok add --provider vertex --name x").ends()
	require.Equal(t, exitUsage, code)
	require.Contains(t, shown, "JSON document")
	require.Contains(t, shown, "--secret-file")
}

func TestCtrlCAtAPromptStopsAndLeavesTheTerminalAsItWas(t *testing.T) {
	u := alice(t)
	_, fresh, err := pty.Open()
	require.NoError(t, err)
	usual, err := term.GetState(int(fresh.Fd()))
	require.NoError(t, err)
	for command, prompt := range map[string]string{
		"api byok add --provider openai --name never": "(not shown): ",
		"api members remove bob":                      "[y/N] ",
	} {
		s := u.at(100, strings.Fields(command)...).expect(prompt).types("\x03")
		code, shown := s.ends()
		require.Equal(t, exitStopped, code, shown)
		require.Contains(t, shown, "stopped")
		left, err := term.GetState(int(s.tty.Fd()))
		require.NoError(t, err)
		require.Equal(t, usual, left)
	}
}

func TestCtrlDAtAHiddenPromptEndsItAndSaysSo(t *testing.T) {
	u := alice(t)
	_, fresh, err := pty.Open()
	require.NoError(t, err)
	usual, err := term.GetState(int(fresh.Fd()))
	require.NoError(t, err)
	for _, keys := range []string{"\x04", "hunter2\x04\x04"} {
		for _, command := range []string{"api byok add --provider openai --name never", "login --profile never --base-url http://127.0.0.1:1"} {
			s := u.at(100, strings.Fields(command)...).expect("(not shown): ").types(keys)
			code, shown := s.ends()
			require.Equal(t, exitDeclined, code, shown)
			require.Contains(t, shown, "tare: the input was ended (Ctrl-D) before an answer: nothing was done\n")
			require.NotContains(t, shown, "hunter2")
			left, err := term.GetState(int(s.tty.Fd()))
			require.NoError(t, err)
			require.Equal(t, usual, left)
		}
	}
}

func TestABackspaceThatTheTerminalDoesNotKnowIsCarriedOut(t *testing.T) {
	u := alice(t)
	s := u.at(100, "api byok add --provider openai --name corrected").expect("(not shown): ")
	code, shown := s.types("\b" + aSecret + "x\b\n").ends()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "…ter2")
	u.revoke(anyKeyID.FindString(shown))
}

func TestASignalAtAHiddenPromptLeavesATerminalThatShowsWhatIsTyped(t *testing.T) {
	_, fresh, err := pty.Open()
	require.NoError(t, err)
	usual, err := term.GetState(int(fresh.Fd()))
	require.NoError(t, err)
	for _, signal := range []os.Signal{syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM} {
		s := alice(t).at(100, "api byok add --provider openai --name never")
		require.Eventually(t, func() bool {
			now, err := term.GetState(int(s.tty.Fd()))
			return err == nil && !reflect.DeepEqual(usual, now)
		}, patience, time.Millisecond, "it never hides what is typed")
		require.NoError(t, s.cmd.Process.Signal(signal))
		code, shown := s.ends()
		require.Equal(t, exitStopped, code, shown)
		left, err := term.GetState(int(s.tty.Fd()))
		require.NoError(t, err)
		require.Equal(t, usual, left, signal)
	}
}

func TestTheProgressFitsANarrowTerminal(t *testing.T) {
	s := newStandIn(t, func(_ string, w http.ResponseWriter, r *http.Request) {
		held(r)
		writeJSON(w, http.StatusOK, receipt(1))
	})
	code, shown := s.user(t).at(40, "api byok remove --yes --wait 350ms "+sampleID).ends()
	require.Equal(t, exitPending, code)
	before, _, _ := strings.Cut(controlCodes.ReplaceAllString(shown, ""), "\n")
	lines := strings.Split(before, "\r")
	require.Contains(t, strings.Join(lines, ""), "waiting: 1 of 3")
	for _, line := range lines[:len(lines)-1] {
		require.Less(t, displaywidth.String(line), 40, "a line that goes on below can't be taken back")
	}
}

// silence is a standard input that nothing comes from; it tells when somebody reads.
type silence chan struct{}

func (s silence) Read([]byte) (int, error) {
	close(s)
	select {}
}

func TestASignalEndsTheWaitForAPipe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stdin, code := make(silence), make(chan int)
	var stdout, stderr bytes.Buffer
	go func() {
		code <- run(ctx, strings.Fields("api byok add --provider openai --name never"), alice(t).env, stdin, &stdout, &stderr)
	}()
	<-stdin
	cancel()
	require.Equal(t, exitStopped, <-code)
	require.Equal(t, "tare: stopped\n", stderr.String())
}

func TestRevokingIsConfirmedOnATerminal(t *testing.T) {
	u := alice(t)
	id := u.add("confirmed")
	for _, answer := range []string{"\n", "n\n", "what\n", "\x04"} {
		s := u.at(120, "api byok remove "+id).expect(`Revoke the project's openai key "confirmed" (…ter2, not used yet)?`)
		code, shown := s.expect("[y/N] ").types(answer).ends()
		require.Equal(t, exitDeclined, code, shown)
	}
	require.Contains(t, u.ok("api byok get "+id), "active")
	code, shown := u.at(120, "api byok remove "+id).expect("[y/N] ").types("y\n").ends()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "complete")
	code, shown = u.at(120, "api byok remove "+id).ends()
	require.Equal(t, exitOK, code, "what is revoked is not asked about")
	require.Contains(t, shown, "complete")
	code, _ = u.at(120, "api byok remove --yes "+u.add("unasked")).ends()
	require.Equal(t, exitOK, code)
}

func TestRemovingAMemberIsConfirmedOnATerminal(t *testing.T) {
	u := alice(t)
	u.ok("api members set dave --role member")
	code, shown := u.at(80, "api members remove dave").expect("[y/N] ").types("no\n").ends()
	require.Equal(t, exitDeclined, code)
	require.Contains(t, shown, "nothing was done")
	code, _ = u.at(80, "api members remove dave").expect("[y/N] ").types("yes\n").ends()
	require.Equal(t, exitOK, code)
	require.NotContains(t, u.ok("api members list"), "dave")
}

func TestTablesFitTheTerminal(t *testing.T) {
	u := alice(t)
	u.add("short")
	u.add("a very long name 名前 that somebody gave to their key, as names may have up to 128 characters")
	u.add("own", "--user-scope")
	for _, command := range []string{"api byok list", "api byok events", "api members list", "api providers", "profiles list"} {
		for _, columns := range []uint16{20, 40, 60, 80, 100, 120, 200} {
			code, shown := u.at(columns, command).ends()
			require.Equal(t, exitOK, code)
			lines := strings.Split(strings.TrimRight(controlCodes.ReplaceAllString(shown, ""), "\n"), "\n")
			if !strings.Contains(lines[0], "  ") {
				continue // too narrow for a table: blocks, or a sentence
			}
			for _, line := range lines {
				if strings.HasPrefix(line, "There are more") {
					continue
				}
				require.LessOrEqual(t, displaywidth.String(line), int(columns), "%s:\n%s", command, shown)
				require.False(t, strings.HasSuffix(line, " "), "%q", line)
				require.NotRegexp(t, `byok_\w+…`, line, "ids are to be copied")
			}
		}
	}
	_, shown := u.at(80, "api byok list").ends()
	require.Contains(t, shown, "…")
	require.Len(t, anyKeyID.FindAllString(shown, 3), 3, "ids are never cut: they are to be copied")
	_, shown = u.at(20, "api byok list").ends()
	require.Contains(t, controlCodes.ReplaceAllString(shown, ""), "NAME short\n")
}

func TestColoursAreForTerminalsAlone(t *testing.T) {
	u := alice(t)
	u.add("coloured")
	require.NotContains(t, u.ok("api byok list"), "\x1b")
	_, shown := u.at(100, "api byok list").ends()
	require.Contains(t, shown, "\x1b[32mactive\x1b[0m")
	_, shown = u.at(100, "api byok list --no-color").ends()
	require.NotContains(t, shown, "\x1b")
	_, shown = u.at(100, "api byok list -o json").ends()
	require.NotContains(t, shown, "\x1b")
	for _, variable := range []string{"NO_COLOR=1", "TERM=dumb"} {
		other := alice(t)
		other.env = append(other.env, variable)
		_, shown = other.at(100, "api byok list").ends()
		require.NotContains(t, shown, "\x1b", variable)
	}
}

func TestLoggingInAtATerminal(t *testing.T) {
	u := newPerson(t)
	s := u.at(100, "login").expect("Base URL, such as https://aikeys.example.com: ")
	s.types(built.env["AGENTROUTER_BASE_URL"] + "\n").expect("API key (not shown): ").types(built.env["AGENTROUTER_API_KEY"] + "\n")
	code, shown := s.ends()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "as alice, an owner of acme/chat. Profile: default.")
	require.NotContains(t, shown, built.env["AGENTROUTER_API_KEY"])
	require.Contains(t, u.ok("whoami"), `profile "default"`)

	s = u.at(100, "login").expect("Base URL [" + built.env["AGENTROUTER_BASE_URL"] + "]: ").types("\n")
	code, shown = s.expect("(not shown): ").types(built.env["AGENTROUTER_MEMBER_API_KEY"] + "\n").ends()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "as bob, a member of acme/chat")
}
