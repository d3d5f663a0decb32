package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// peerTimeout is how long a program that a test starts, or a page of it, may take on a busy machine.
const peerTimeout = time.Minute

// startIssuer runs the OpenID provider of tools/peers until the test ends, and returns its URL. Everybody is alice of acme/chat there, who
// consents to everything, unless the authorization URL has another login_hint; login_hint=deny refuses. An argument is the life of an ID
// token in seconds.
func startIssuer(t *testing.T, args ...string) (issuerURL string) {
	t.Helper()
	const folder = "../../tools/peers"
	require.DirExists(t, filepath.Join(folder, "node_modules", "oidc-provider"), "the provider is not installed; run: tools/peers.sh install")
	cmd := exec.Command("node", append([]string{filepath.Join(folder, "issuer.mjs")}, args...)...)
	return startProgram(t, cmd, `(?m)^issuer (\S+)$`)
}

// startServiceAt runs a service of its own until the test ends, and returns its URL. Users sign in at the issuer, with the client "tare".
// Alice is an owner of acme/chat.
func startServiceAt(t *testing.T, issuerURL string) (baseURL string) {
	t.Helper()
	dir := t.TempDir()
	aikeysd := func(args string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(filepath.Dir(live.tare), "aikeysd"), strings.Fields(args)...)
		cmd.Env = []string{
			"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0",
			"AIKEYS_DATABASE_URL=sqlite:" + filepath.Join(dir, "aikeys.db"), "AIKEYS_SEALER=local:" + filepath.Join(dir, "keyset.json"),
			"AIKEYS_OIDC_ISSUER=" + issuerURL, "AIKEYS_OIDC_AUDIENCE=tare", "AIKEYS_OIDC_CLIENT_ID=tare",
		}
		return cmd
	}
	for _, args := range []string{"migrate up", "admin member set --user alice --role owner --customer acme --project chat"} {
		output, err := aikeysd(args).CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
	return startProgram(t, aikeysd("serve --log-format json"), `(?s)"msg":"listening".*"api":"([^"]+)".*"msg":"ready"`)
}

// startProgram runs a program until the test ends. It waits until the lines that the program has printed match, and returns the group.
func startProgram(t *testing.T, cmd *exec.Cmd, isReady string) (group string) {
	t.Helper()
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	ready, started, ended := regexp.MustCompile(isReady), make(chan string, 1), make(chan struct{})
	var said strings.Builder // by the goroutine alone until it has ended
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if match := ready.FindStringSubmatch(said.String()); match != nil {
				started <- match[1]
				break
			}
		}
		_, _ = io.Copy(io.Discard, output) // so that the program never blocks on its output
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		late := time.AfterFunc(peerTimeout, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		<-ended
		_ = cmd.Wait()
	})
	select {
	case group = <-started:
		return group
	case <-ended:
	case <-time.After(peerTimeout):
		_ = cmd.Process.Kill()
		<-ended
	}
	require.FailNow(t, cmd.Path+" did not start", said.String())
	return ""
}

// browse opens a page as a browser does, with cookies and redirects, and returns the last response.
func browse(t *testing.T, page string) (status int, body string) {
	t.Helper()
	return newVisitor(t).send(http.MethodGet, page, nil)
}

// approveDevice opens the provider's page for a device and confirms the code.
func approveDevice(t *testing.T, verificationURIComplete string) {
	t.Helper()
	require.Contains(t, newVisitor(t).answerDevice(verificationURIComplete, nil), "Sign-in Success")
}

// denyDevice opens the provider's page for a device and aborts.
func denyDevice(t *testing.T, verificationURIComplete string) {
	t.Helper()
	require.Contains(t, newVisitor(t).answerDevice(verificationURIComplete, url.Values{"abort": {"yes"}}), "was interrupted")
}

// visitor is a person's browser.
type visitor struct {
	t      *testing.T
	client *http.Client
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	cookies, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &visitor{t, &http.Client{Jar: cookies, Timeout: peerTimeout, Transport: &http.Transport{DisableKeepAlives: true}}}
}

func (v *visitor) send(method, page string, form url.Values) (status int, body string) {
	v.t.Helper()
	// t.Context() has ended when a cleanup signs somebody out.
	request, err := http.NewRequestWithContext(context.Background(), method, page, strings.NewReader(form.Encode()))
	require.NoError(v.t, err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := v.client.Do(request)
	require.NoError(v.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(v.t, err)
	return response.StatusCode, string(text)
}

// answerDevice submits the form with the code, and then the confirmation with the given fields. It returns the last page.
func (v *visitor) answerDevice(page string, answer url.Values) (body string) {
	v.t.Helper()
	_, body = v.send(http.MethodGet, page, nil)
	body = v.submit(body, nil)
	return v.submit(body, answer)
}

var (
	formAction  = regexp.MustCompile(`<form [^>]*action="([^"]+)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)
)

// submit sends the form of a page with further fields, and returns the next page.
func (v *visitor) submit(page string, fields url.Values) (body string) {
	v.t.Helper()
	action, form := formAction.FindStringSubmatch(page), url.Values{}
	require.NotNil(v.t, action, page)
	for _, field := range hiddenField.FindAllStringSubmatch(page, -1) {
		form.Set(field[1], field[2])
	}
	for name, values := range fields {
		form[name] = values
	}
	_, body = v.send(http.MethodPost, action[1], form)
	return body
}
