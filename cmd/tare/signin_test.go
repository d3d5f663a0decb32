package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/internal/secret"
)

// jwt returns an unsigned session token with these claims.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestExpiresSoon(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
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

// signInAs runs a log-in that waits for somebody to sign in. It calls act with each URL that tare prints and the text
// before the URL, until act returns true.
func (u *user) signInAs(act func(before, page string) bool, args ...string) programtest.Outcome {
	u.t.Helper()
	p := programtest.Launch(u.t, u.command(args...))
	var pages [][]string
	for acted := false; !acted; {
		next := len(pages)
		p.Await("it prints a URL", func() bool {
			pages = regexp.MustCompile(`(?m)^(.*?)(http\S+)\n`).FindAllStringSubmatch(p.Stderr.String(), next+1)
			return len(pages) > next
		})
		acted = act(pages[next][1], pages[next][2])
	}
	return p.Outcome()
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
	u.store(one)
}

// store stores this profile as the user's only one.
func (u *user) store(one profile) {
	u.t.Helper()
	require.NoError(u.t, os.MkdirAll(u.config, 0o700))
	text, err := json.Marshal(profiles{Current: defaultProfile, Profiles: map[string]profile{defaultProfile: one}})
	require.NoError(u.t, err)
	require.NoError(u.t, os.WriteFile(filepath.Join(u.config, "profiles.json"), text, 0o600))
}

// visit opens a page as a browser does, with cookies and redirects. For each element of forms, it then submits the form
// of the current page with these additional fields. It returns the last response.
func visit(t *testing.T, page string, forms ...url.Values) (status int, body string) {
	t.Helper()
	cookies, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: cookies, Timeout: programtest.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(page)
	for i := 0; ; i++ {
		require.NoError(t, err)
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		require.NoError(t, err)
		if i == len(forms) {
			return response.StatusCode, string(text)
		}
		action, form := regexp.MustCompile(`<form [^>]*action="([^"]+)"`).FindStringSubmatch(string(text)), url.Values{}
		require.NotNil(t, action, string(text))
		for _, field := range regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`).FindAllStringSubmatch(string(text), -1) {
			form.Set(field[1], field[2])
		}
		maps.Copy(form, forms[i])
		response, err = client.PostForm(action[1], form)
		require.NoError(t, err)
	}
}

// TestLoginAtAnIssuer uses the OpenID provider of tools/peers. Its user is alice of acme/chat, who consents to
// everything. A login_hint in the authorization URL names another user; with login_hint=deny, the provider refuses. ID
// tokens live for 20 s, so each command renews them.
func TestLoginAtAnIssuer(t *testing.T) {
	t.Parallel()
	const folder = "../../tools/peers"
	require.DirExists(t, filepath.Join(folder, "node_modules", "oidc-provider"), "the provider is not installed; run: tools/peers.sh install")
	provider := programtest.Launch(t, exec.Command("node", filepath.Join(folder, "issuer.mjs"), "20"))
	provider.AwaitLog("issuer http")
	issuer := strings.Fields(provider.Stdout.String())[1]
	dir := t.TempDir()
	aikeysd := func(args string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(filepath.Dir(live.tare), "aikeysd"), strings.Fields(args)...)
		cmd.Env = []string{
			"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0",
			"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(dir, "aikeys.db"), "AIKEYS_SEALER=local:" + filepath.Join(dir, "keyset.json"),
			"AIKEYS_OIDC_ISSUER=" + issuer, "AIKEYS_OIDC_AUDIENCE=tare", "AIKEYS_OIDC_CLIENT_ID=tare",
		}
		return cmd
	}
	for _, args := range []string{"migrate up", "admin member set --user alice --role owner --customer acme --project chat"} {
		output, err := aikeysd(args).CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
	baseURL := programtest.Launch(t, aikeysd("serve --log-format json")).AwaitReady().URL("api")

	t.Run("in the browser", func(t *testing.T) {
		t.Parallel()
		u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+baseURL)
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
				status, _ := visit(t, path)
				require.Equal(t, want, status, path)
			}
			status, body := visit(t, page)
			require.Equal(t, http.StatusOK, status, body)
			require.Contains(t, body, "You are signed in.")
			return true
		}, "login", "--web")
		require.Equal(t, exitOK, got.Code, got.Output())
		require.Contains(t, got.Stdout, "as alice")

		first := u.stored()
		for _, hidden := range []string{first.APIKey.Reveal(), first.SignIn.RefreshToken.Reveal()} {
			require.NotEmpty(t, hidden)
			require.NotContains(t, got.Output(), hidden)
		}
		require.Contains(t, u.runOK("whoami"), "alice")
		second := u.stored()
		require.NotEqual(t, first.SignIn.RefreshToken.Reveal(), second.SignIn.RefreshToken.Reveal(), "the session token was renewed")

		got = u.run("logout")
		require.Equal(t, exitOK, got.Code, got.Output())
		require.Nil(t, u.stored().SignIn)
		u.changeStored(func(p *profile) { *p = second })
		got = u.run("whoami")
		require.Equal(t, exitUnauthenticated, got.Code, "logging out ended the session at the issuer")
		require.Contains(t, got.Stderr, "your session has ended")
		require.Contains(t, got.Stderr, "tare login --web --profile default")
	})
	t.Run("on a device, and the issuer is down for a while", func(t *testing.T) {
		t.Parallel()
		u := newUser(t, "AGENTROUTER_BASE_URL="+baseURL)
		got := u.signInAs(func(before, page string) bool {
			if before == "Or open " {
				_, body := visit(t, page, nil, nil)
				require.Contains(t, body, "Sign-in Success")
			}
			return before == "Or open "
		}, "login", "--device")
		require.Equal(t, exitOK, got.Code, got.Output())
		require.Contains(t, u.runOK("whoami"), "alice")
		u.changeStored(func(p *profile) {
			p.APIKey = secret.New(jwt(`{"exp":1}`))
			p.SignIn.Issuer = "http://127.0.0.1:9"
		})
		got = u.run("whoami")
		require.Equal(t, exitUnavailable, got.Code, got.Output())
		require.Contains(t, got.Stderr, "no answer from the issuer")
		u.changeStored(func(p *profile) { p.SignIn.Issuer = issuer })
		require.Contains(t, u.runOK("whoami"), "alice", "it goes on when the issuer is back")
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+baseURL)
		for flag, refuse := range map[string]func(before, page string) bool{
			"--web": func(_, page string) bool {
				_, body := visit(t, page+"&login_hint=deny")
				require.Contains(t, body, "You are not signed in")
				return true
			},
			"--device": func(before, page string) bool {
				if before == "Or open " {
					_, body := visit(t, page, nil, url.Values{"abort": {"yes"}})
					require.Contains(t, body, "was interrupted")
				}
				return before == "Or open "
			},
		} {
			got := u.signInAs(refuse, "login", flag)
			require.Equal(t, exitDeclined, got.Code, got.Output())
			require.Contains(t, got.Stderr, "refused at the issuer")
		}
		require.NoFileExists(t, filepath.Join(u.config, "profiles.json"))
	})
	t.Run("Enter at the prompt for a key", func(t *testing.T) {
		t.Parallel()
		u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+baseURL)
		s := u.runInTerminal(1000, "login").expect("or Enter to sign in at " + issuer + ": ").typeKeys("\n").expect("Without a browser")
		_, body := visit(t, regexp.MustCompile(`Sign in on this page: (\S+)`).FindStringSubmatch(s.output())[1])
		require.Contains(t, body, "You are signed in.")
		code, shown := s.wait()
		require.Equal(t, exitOK, code, shown)
		require.Contains(t, shown, "as alice")
	})
}

func TestLoginWhereNobodySignsIn(t *testing.T) {
	t.Parallel()
	u := newUser(t, "AGENTROUTER_BASE_URL="+live.env["AGENTROUTER_BASE_URL"])
	for _, flag := range []string{"--web", "--device"} {
		got := u.run("login", flag)
		require.Equal(t, exitUsage, got.Code, got.Output())
		require.Contains(t, got.Stderr, "names no issuer to sign in at")
	}
	got := u.run("login", "--web", "--device")
	require.Equal(t, exitUsage, got.Code, got.Output())
}

// newFakeIssuer starts a service that is its own issuer. It answers requests for the sign-in options, the issuer's
// metadata and the session. change replaces members of the metadata. The function answer handles all other requests.
func newFakeIssuer(t *testing.T, change map[string]any, answer func(request string, w http.ResponseWriter, r *http.Request)) *fakeService {
	t.Helper()
	return newFakeService(t, func(request string, w http.ResponseWriter, r *http.Request) {
		self := "http://" + r.Host
		switch request {
		case "GET sign-in":
			writeJSON(w, http.StatusOK, map[string]any{"methods": []string{"api_key", "oidc"}, "oidc": map[string]any{
				"issuer": self, "client_id": "tare", "scopes": []string{"openid"}, "session_token": "access_token"}})
		case "GET openid-configuration":
			document := map[string]any{"issuer": self}
			for _, name := range []string{"authorization", "token", "device_authorization", "revocation"} {
				document[name+"_endpoint"] = self + "/" + name
			}
			maps.Copy(document, change)
			writeJSON(w, http.StatusOK, document)
		case "GET whoami":
			writeJSON(w, http.StatusOK, sessionDocument())
		default:
			answer(request, w, r)
		}
	})
}

const testRefreshToken = "refresh-token-hunter2"

// signedIn returns a user whose session token has expired.
func (s *fakeService) signedIn(t *testing.T) *user {
	t.Helper()
	u := newUser(t)
	u.store(profile{BaseURL: s.URL, APIKey: secret.New(jwt(`{"exp":1}`)), SignIn: &signIn{
		Issuer: s.URL, ClientID: "tare", Scopes: []string{"openid"}, SessionToken: "access_token", RefreshToken: secret.New(testRefreshToken)}})
	return u
}

func TestRefreshTokensFollowNoRedirect(t *testing.T) {
	t.Parallel()
	other := newFakeService(t, func(_ string, w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, map[string]any{}) })
	issuer := newFakeIssuer(t, nil, func(_ string, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	u := issuer.signedIn(t)
	got := u.run("whoami")
	require.Equal(t, exitFailure, got.Code, got.Output())
	require.Contains(t, got.Stderr, "the issuer answers 307")
	require.Contains(t, u.run("logout").Stderr, "could not be ended: the issuer answers 307")
	require.Contains(t, issuer.requestsSoFar(), "POST token")
	require.Contains(t, issuer.lastBody(), testRefreshToken)
	require.Empty(t, other.requestsSoFar())
}

func TestIssuersThatSayWhatNoneShould(t *testing.T) {
	t.Parallel()
	endless := strings.Repeat("x", maxIssuerAnswer)
	for name, c := range map[string]struct {
		change map[string]any
		want   string
	}{
		"in clear text":      {map[string]any{"token_endpoint": "http://192.0.2.1/token"}, "is not https://"},
		"file":               {map[string]any{"authorization_endpoint": "file:///bin/sh"}, "is not https://"},
		"flag":               {map[string]any{"authorization_endpoint": "--version"}, "is not https://"},
		"keys in clear text": {map[string]any{"jwks_uri": "http://192.0.2.1/keys"}, "is not https://"},
		"another issuer":     {map[string]any{"issuer": "https://issuer.example" + hostileName + endless[:9999]}, "is not an OpenID Connect issuer"},
		"endless":            {map[string]any{"padding": endless}, "is not an OpenID Connect issuer"},
	} {
		u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+newFakeIssuer(t, c.change, nil).URL)
		got := u.run("login", "--web")
		require.Equal(t, exitFailure, got.Code, name)
		require.Contains(t, got.Stderr, c.want, name)
		require.Less(t, len(got.Output()), 1000, name)
		requireSafe(t, got.Stderr)
	}
}

func TestDeviceCodesOfAHostileIssuer(t *testing.T) {
	t.Parallel()
	for interval, refusal := range map[int]string{-1: "authorization_pending", 1: hostileName} {
		issuer := newFakeIssuer(t, nil, func(request string, w http.ResponseWriter, _ *http.Request) {
			if request == "POST device_authorization" {
				writeJSON(w, http.StatusOK, map[string]any{
					"device_code": "d", "user_code": hostileName, "verification_uri": hostileName, "verification_uri_complete": hostileName,
					"expires_in": 2, "interval": interval,
				})
				return
			}
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": refusal, "error_description": strings.Repeat(hostileName, 100)})
		})
		got := newUser(t, "AGENTROUTER_BASE_URL="+issuer.URL).run("login", "--device")
		require.Equal(t, exitFailure, got.Code, got.Output())
		require.Regexp(t, "the code expired before anybody entered it|the issuer refuses: evil", got.Stderr)
		requireSafe(t, got.Stderr)
		require.Less(t, len(got.Stderr), 2000)
	}
}

func TestBrowserSeesWhyASignInFailed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		iss         string
		namesItself bool
		want        string
	}{
		"no issuer":      {namesItself: true, want: "is from another issuer"},
		"another issuer": {iss: "&iss=https://issuer.example", want: "is from another issuer"},
		"a spent code":   {want: "the issuer refuses: invalid_grant: <spent>"},
	} {
		issuer := newFakeIssuer(t, map[string]any{"authorization_response_iss_parameter_supported": c.namesItself},
			func(_ string, w http.ResponseWriter, _ *http.Request) {
				writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": "<spent>"})
			})
		u := newUser(t, "BROWSER=true", "AGENTROUTER_BASE_URL="+issuer.URL)
		got := u.signInAs(func(_, page string) bool {
			authorization, err := url.Parse(page)
			require.NoError(t, err)
			query := authorization.Query()
			status, body := visit(t, query.Get("redirect_uri")+"?code=x&state="+query.Get("state")+c.iss)
			require.Equal(t, http.StatusOK, status)
			require.Contains(t, html.UnescapeString(body), "You are not signed in: ")
			require.Contains(t, html.UnescapeString(body), c.want, name)
			require.NotContains(t, body, "<spent>")
			return true
		}, "login", "--web")
		require.Equal(t, exitFailure, got.Code, got.Output())
		require.Contains(t, got.Stderr, c.want)
		require.Equal(t, name == "a spent code", slices.Contains(issuer.requestsSoFar(), "POST token"), name)
	}
}

func TestOneRenewalForTaresAtOnce(t *testing.T) {
	t.Parallel()
	issuer := newFakeIssuer(t, nil, func(request string, w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"access_token": jwt(`{"exp":9999999999}`), "refresh_token": "second-" + testRefreshToken})
	})
	u := issuer.signedIn(t)
	var wg sync.WaitGroup
	outcomes := make([]programtest.Outcome, 4)
	for i := range outcomes {
		wg.Go(func() { outcomes[i] = u.run("whoami") })
	}
	wg.Wait()
	for _, got := range outcomes {
		require.Equal(t, exitOK, got.Code, got.Output())
	}
	renewals := slices.DeleteFunc(issuer.requestsSoFar(), func(request string) bool { return request != "POST token" })
	require.Len(t, renewals, 1, "issuers take each refresh token once")
	require.Equal(t, "second-"+testRefreshToken, u.stored().SignIn.RefreshToken.Reveal())
}

func TestFailedRenewalKeepsTheRefreshToken(t *testing.T) {
	t.Parallel()
	issuer := newFakeIssuer(t, nil, func(_ string, w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"access_token": "a", "id_token": "no.JWT", "refresh_token": "second-" + testRefreshToken})
	})
	u := issuer.signedIn(t)
	got := u.run("whoami")
	require.Equal(t, exitFailure, got.Code, got.Output())
	require.Contains(t, got.Stderr, "an ID token that is not valid")
	require.Equal(t, "second-"+testRefreshToken, u.stored().SignIn.RefreshToken.Reveal(), "the issuer takes the first no more")
}

func TestSessionTokenOfAnotherService(t *testing.T) {
	t.Parallel()
	u := newUser(t)
	valid := secret.New(jwt(`{"exp":9999999999}`))
	u.store(profile{BaseURL: "https://b.example", APIKey: valid})
	p := newProgram([]string{configDirVariable + "=" + u.config}, nil, io.Discard, io.Discard)
	expired := access{baseURL: "https://a.example", apiKey: secret.New(jwt(`{"exp":1}`)), profile: defaultProfile}
	_, err := p.validKey(t.Context(), expired)
	require.ErrorIs(t, err, errNotLoggedIn, "the profile has been logged in elsewhere since tare read it")
	expired.baseURL = "https://b.example"
	got, err := p.validKey(t.Context(), expired)
	require.NoError(t, err)
	require.Equal(t, valid.Reveal(), got.Reveal())
}

func TestRemovedProfileEndsItsSession(t *testing.T) {
	t.Parallel()
	issuer := newFakeIssuer(t, nil, func(_ string, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	u := issuer.signedIn(t)
	u.runOK("profiles remove default")
	require.Contains(t, issuer.requestsSoFar(), "POST revocation")
	require.Contains(t, issuer.lastBody(), "token="+testRefreshToken)

	u = newFakeIssuer(t, map[string]any{"revocation_endpoint": ""}, nil).signedIn(t)
	require.Contains(t, u.run("logout").Stderr, "could not be ended: the issuer does not support that")
}

func TestRefusedSessionIsEndedAtTheIssuer(t *testing.T) {
	t.Parallel()
	issuer := newFakeIssuer(t, nil, func(request string, w http.ResponseWriter, _ *http.Request) {
		switch request {
		case "POST device_authorization":
			writeJSON(w, http.StatusOK, map[string]any{"device_code": "d", "user_code": "u", "verification_uri": "https://issuer.example", "interval": 1})
		case "POST token":
			writeJSON(w, http.StatusOK, map[string]any{"access_token": jwt(`{"exp":9999999999}`), "refresh_token": testRefreshToken})
		}
	})
	service := newFakeService(t, func(request string, w http.ResponseWriter, r *http.Request) {
		if request == "GET sign-in" {
			writeJSON(w, http.StatusOK, map[string]any{"methods": []string{"oidc"}, "oidc": map[string]any{
				"issuer": issuer.URL, "client_id": "tare", "scopes": []string{"openid"}, "session_token": "access_token"}})
			return
		}
		writeProblem(w, http.StatusUnauthorized, "unauthenticated", "The token is for another audience.")
	})
	u := newUser(t, "AGENTROUTER_BASE_URL="+service.URL)
	got := u.run("login", "--device")
	require.Equal(t, exitUnauthenticated, got.Code, got.Output())
	require.Contains(t, got.Stderr, "does not accept the session token: The token is for another audience.")
	require.Contains(t, got.Stderr, "The session token comes from the issuer.")
	require.Contains(t, issuer.requestsSoFar(), "POST revocation")
	require.Contains(t, issuer.lastBody(), "token="+testRefreshToken)
	require.NoFileExists(t, u.profilesFile())
}
