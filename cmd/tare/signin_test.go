package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/agentrouter/aikeys/internal/secret"
)

func TestExpiresSoon(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for credential, want := range map[string]bool{
		"": false, "ak_01M7W0BTX000000000000000AK_secret": false, "a.b.c": false, "e30.bm90IEpTT04.c2ln": false,
		jwt(`{}`): false, jwt(`{"exp":"1"}`): false,
		jwt(`{"exp":1}`): true, jwt(`{"exp":1799999999.5}`): true, jwt(`{"exp":1800000030}`): true, jwt(`{"exp":1800000031}`): false,
		jwt(`{"exp":1e300}`): false, jwt(`{"exp":-1}`): true,
	} {
		require.Equal(t, want, expiresSoon(secret.New(credential), now), credential)
	}
}

func TestDescribeIssuerError(t *testing.T) {
	for text, err := range map[string]error{
		"the sign-in was refused at the issuer: nothing was done": &oauth2.RetrieveError{ErrorCode: "access_denied", ErrorDescription: "no"},
		"the issuer refuses: invalid_client: unknown client":      &oauth2.RetrieveError{ErrorCode: "invalid_client", ErrorDescription: "unknown client"},
		"the issuer refuses: invalid_client":                      &oauth2.RetrieveError{ErrorCode: "invalid_client", Body: []byte("secret")},
		"another":                                                 errors.New("another"),
	} {
		require.EqualError(t, describeIssuerError(err), text)
	}
}

// signInAs runs a log-in that waits for somebody to sign in. act gets each URL that tare prints, and what is before it, until it returns true.
func (u *user) signInAs(act func(before, page string) bool, args ...string) outcome {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), testTimeout)
	defer cancel()
	cmd := u.command(ctx, args...)
	var stdout strings.Builder
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	require.NoError(u.t, err)
	require.NoError(u.t, cmd.Start())
	said, done := "", false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said += lines.Text() + "\n"
		if found := regexp.MustCompile(`^(.*?)(http\S+)$`).FindStringSubmatch(lines.Text()); found != nil && !done {
			done = act(found[1], found[2])
		}
	}
	_ = cmd.Wait() // the code is checked
	require.NoError(u.t, ctx.Err(), "tare did not end; its output:\n%s%s", &stdout, said)
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), said}
}

// stored returns the only profile of a user as it is stored.
func (u *user) stored() (p profile) {
	u.t.Helper()
	text, err := os.ReadFile(filepath.Join(u.config, "profiles.json"))
	require.NoError(u.t, err)
	var all profiles
	require.NoError(u.t, json.Unmarshal(text, &all))
	return all.Profiles[all.Current]
}

// changeStored changes the only profile of a user.
func (u *user) changeStored(change func(*profile)) {
	u.t.Helper()
	one := u.stored()
	change(&one)
	text, err := json.Marshal(profiles{Current: defaultProfile, Profiles: map[string]profile{defaultProfile: one}})
	require.NoError(u.t, err)
	require.NoError(u.t, os.WriteFile(filepath.Join(u.config, "profiles.json"), text, 0o600))
}

func TestLoginAtAnIssuerInTheBrowser(t *testing.T) {
	t.Parallel()
	issuer := startIssuer(t, "20") // so short that each command renews it
	u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+startServiceAt(t, issuer))
	got := u.signInAs(func(_, page string) bool {
		authorization, err := url.Parse(page)
		require.NoError(t, err)
		query := authorization.Query()
		require.Equal(t, "S256", query.Get("code_challenge_method"))
		callback := query.Get("redirect_uri")
		for path, want := range map[string]int{
			callback + "?code=x&state=guessed": http.StatusBadRequest, callback + "?code=x": http.StatusBadRequest,
			strings.TrimSuffix(callback, "/callback") + "/?state=" + query.Get("state"): http.StatusNotFound,
		} {
			status, _ := browse(t, path)
			require.Equal(t, want, status, path)
		}
		status, body := browse(t, page)
		require.Equal(t, http.StatusOK, status, body)
		require.Contains(t, body, "You are signed in.")
		return true
	}, "login", "--web")
	require.Equal(t, exitOK, got.code, got.all())
	require.Contains(t, got.stdout, "as alice")

	first := u.stored()
	for _, hidden := range []string{first.APIKey.Reveal(), first.SignIn.RefreshToken.Reveal()} {
		require.NotEmpty(t, hidden)
		require.NotContains(t, got.all(), hidden)
	}
	require.Contains(t, u.runOK("whoami"), "alice")
	second := u.stored()
	require.NotEqual(t, first.SignIn.RefreshToken.Reveal(), second.SignIn.RefreshToken.Reveal(), "the session token was renewed")

	got = u.run("logout")
	require.Equal(t, exitOK, got.code, got.all())
	require.Nil(t, u.stored().SignIn)
	u.changeStored(func(p *profile) { *p = second })
	got = u.run("whoami")
	require.Equal(t, exitUnauthenticated, got.code, "logging out ended the session at the issuer")
	require.Contains(t, got.stderr, "your session has ended")
}

func TestLoginAtAnIssuerOnADevice(t *testing.T) {
	t.Parallel()
	u := newUser(t, "AGENTROUTER_BASE_URL="+startServiceAt(t, startIssuer(t)))
	got := u.signInAs(func(before, page string) bool {
		if before != "Or open " {
			return false
		}
		approveDevice(t, page)
		return true
	}, "login", "--device")
	require.Equal(t, exitOK, got.code, got.all())
	require.Contains(t, u.runOK("whoami"), "alice")
}

func TestLoginAtAnIssuerThatRefuses(t *testing.T) {
	t.Parallel()
	u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+startServiceAt(t, startIssuer(t)))
	got := u.signInAs(func(_, page string) bool {
		_, body := browse(t, page+"&login_hint=deny")
		require.Contains(t, body, "You are not signed in")
		return true
	}, "login", "--web")
	requireRefused := func() {
		t.Helper()
		require.Equal(t, exitDeclined, got.code, got.all())
		require.Contains(t, got.stderr, "refused at the issuer")
	}
	requireRefused()
	got = u.signInAs(func(before, page string) bool {
		if before == "Or open " {
			denyDevice(t, page)
		}
		return before == "Or open "
	}, "login", "--device")
	requireRefused()
	require.NoFileExists(t, filepath.Join(u.config, "profiles.json"))
}

func TestLoginWhereNobodySignsIn(t *testing.T) {
	t.Parallel()
	u := newUser(t, "AGENTROUTER_BASE_URL="+live.env["AGENTROUTER_BASE_URL"])
	for _, flag := range []string{"--web", "--device"} {
		got := u.run("login", flag)
		require.Equal(t, exitUsage, got.code, got.all())
		require.Contains(t, got.stderr, "names no issuer to sign in at")
	}
	got := u.run("login", "--web", "--device")
	require.Equal(t, exitUsage, got.code, got.all())
}

func TestAnIssuerThatIsDownEndsNoSession(t *testing.T) {
	t.Parallel()
	u := newUser(t, "AGENTROUTER_BASE_URL="+startServiceAt(t, startIssuer(t)))
	got := u.signInAs(func(before, page string) bool {
		if before == "Or open " {
			approveDevice(t, page)
		}
		return before == "Or open "
	}, "login", "--device")
	require.Equal(t, exitOK, got.code, got.all())
	before := u.stored()
	u.changeStored(func(p *profile) {
		p.APIKey = secret.New("e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1}`)) + ".c2ln")
		p.SignIn.Issuer = "http://127.0.0.1:9"
	})
	got = u.run("whoami")
	require.Equal(t, exitFailure, got.code, got.all())
	require.Contains(t, got.stderr, "the issuer does not answer")
	u.changeStored(func(p *profile) { p.SignIn.Issuer = before.SignIn.Issuer })
	require.Contains(t, u.runOK("whoami"), "alice", "it goes on when the issuer is back")
}

func TestEnterAtThePromptForAKeySignsIn(t *testing.T) {
	t.Parallel()
	issuer := startIssuer(t)
	u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+startServiceAt(t, issuer))
	s := u.runInTerminal(1000, "login").expect("or Enter to sign in at " + issuer + ": ").typeKeys("\n").expect("Without a browser")
	_, body := browse(t, regexp.MustCompile(`Sign in on this page: (\S+)`).FindStringSubmatch(s.output())[1])
	require.Contains(t, body, "You are signed in.")
	code, shown := s.wait()
	require.Equal(t, exitOK, code, shown)
	require.Contains(t, shown, "as alice")
}
