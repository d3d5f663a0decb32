package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/internal/secret"
)

// withKeyring starts a GNOME keyring for a user, on a private bus. Both run until the test ends.
func (u *user) withKeyring() *user {
	u.t.Helper()
	home := u.t.TempDir()
	environ := []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "XDG_DATA_HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	daemon := exec.Command("dbus-daemon", "--session", "--nofork", "--print-address=1")
	daemon.Env = environ
	launched := programtest.Launch(u.t, daemon)
	launched.AwaitLog("\n")
	address := strings.TrimSpace(launched.Stdout.String())
	keyring := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	keyring.Env, keyring.Stdin = slices.Concat(environ, []string{busVariable + "=" + address}), strings.NewReader("\n") // no password
	programtest.Launch(u.t, keyring)
	bus, err := dbus.Connect(address)
	require.NoError(u.t, err)
	u.t.Cleanup(func() { _ = bus.Close() })
	require.Eventually(u.t, func() bool {
		answers := false
		call := bus.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, "org.freedesktop.secrets")
		return call.Store(&answers) == nil && answers
	}, programtest.Patience, 10*time.Millisecond)
	u.env = append(u.env, keyringVariable+"=", busVariable+"="+address)
	return u
}

func TestKeyringItem(t *testing.T) {
	t.Parallel()
	u := newUser(t).withKeyring()
	got := u.login(live.env["AGENTROUTER_API_KEY"])
	require.Equal(t, exitOK, got.Code, got.Output())
	require.Contains(t, got.Stdout, "The API key is stored in the system's keyring.")
	loggedIn := u.stored()
	require.Equal(t, storedInKeyring, loggedIn.storedIn())
	require.Regexp(t, `profile "default"\nStored in +keyring`, u.runOK("whoami"))
	require.Regexp(t, `default .* keyring +in use`, u.runOK("profiles list"))

	u.env = append(u.env, keyringVariable+"=off")
	got = u.run("whoami")
	require.Equal(t, exitUnavailable, got.Code, got.Output())
	require.Contains(t, got.Stderr, "is in the system's keyring, which can't be read: TARE_KEYRING is off")
	u.env = append(u.env, keyringVariable+"=no")
	require.Equal(t, exitUsage, u.run("whoami").Code)
	u.env = append(u.env, keyringVariable+"=")

	reachable := slices.Clone(u.env)
	u.env = append(u.env, busVariable+"=")
	for _, command := range []string{"logout", "profiles remove default"} {
		got = u.run(command)
		require.Equal(t, exitUnavailable, got.Code, got.Output())
		require.Contains(t, got.Stderr, fmt.Sprintf("is still in the system's keyring, as the item %q of tare: this session has no keyring", loggedIn.Keyring))
		require.Equal(t, loggedIn, u.stored(), command)
	}
	u.env = append(slices.Clone(reachable), keyringVariable+"=off")
	require.Equal(t, exitOK, u.run("logout").Code, "what is off is not used, but emptied")
	require.Empty(t, u.stored().storedIn())
	u.env = reachable
	u.store(loggedIn)
	got = u.run("whoami")
	require.Equal(t, exitUnauthenticated, got.Code, got.Output())
	require.Contains(t, got.Stderr, "The system's keyring no longer has the item")
}

func TestRenewalMovesASessionToTheKeyring(t *testing.T) {
	t.Parallel()
	var issuer *fakeService
	var renewals atomic.Int32
	issuer = newFakeIssuer(t, nil, func(request string, w http.ResponseWriter, _ *http.Request) {
		if request != "POST token" {
			return
		}
		if !strings.Contains(issuer.lastBody(), fmt.Sprintf("refresh_token=%s%d", testRefreshToken, renewals.Load())) {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"access_token": jwt(`{"exp":9999999999}`), "refresh_token": fmt.Sprintf("%s%d", testRefreshToken, renewals.Add(1)),
		})
	})
	u := issuer.signedIn(t).withKeyring()
	u.changeStored(func(p *profile) { p.SignIn.RefreshToken = secret.New(testRefreshToken + "0") })
	var wg sync.WaitGroup
	outcomes := make([]programtest.Outcome, 4)
	for i := range outcomes {
		wg.Go(func() { outcomes[i] = u.run("whoami") })
	}
	wg.Wait()
	for _, got := range outcomes {
		require.Equal(t, exitOK, got.Code, got.Output())
	}
	moved := u.stored()
	require.Equal(t, storedInKeyring, moved.storedIn())
	require.Empty(t, moved.SignIn.RefreshToken.Reveal())
	u.changeStored(func(p *profile) { p.APIKey = secret.New(jwt(`{"exp":1}`)) }) // as if it had been too long for the keyring
	u.runOK("whoami")
	moved = u.stored()
	require.Equal(t, storedInKeyring, moved.storedIn())
	require.EqualValues(t, 2, renewals.Load())
	u.runOK("profiles remove default")
	require.Contains(t, issuer.lastBody(), "token="+testRefreshToken+"2", "the session is ended at the issuer")
}

func TestKeyringThatHangs(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "bus")
	silent, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	u := newUser(t, keyringVariable+"=", "XDG_RUNTIME_DIR="+filepath.Dir(socket))
	got := u.login(live.env["AGENTROUTER_API_KEY"])
	require.Equal(t, exitOK, got.Code, got.Output())
	require.Contains(t, got.Stdout, "which only you can read, and not in the system's keyring: the keyring did not answer within 3s; it may be locked.")
	require.Equal(t, storedInFile, u.stored().storedIn())
	require.Equal(t, exitOK, u.run("logout").Code, "it uses no keyring")

	u = newUser(t, keyringVariable+"=", "XDG_RUNTIME_DIR="+t.TempDir())
	require.Contains(t, u.login(live.env["AGENTROUTER_API_KEY"]).Stdout, ": this session has no keyring.")
}
