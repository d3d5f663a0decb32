package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cli/browser"
	"github.com/coreos/go-oidc/v3/oidc"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"golang.org/x/oauth2"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/secret"
)

const (
	// issuerTimeout limits a request to an issuer, and maxIssuerAnswer its answer, in bytes.
	issuerTimeout   = 10 * time.Second
	maxIssuerAnswer = 1 << 20
	// maxIssuerText limits how much of an issuer's error is shown, in bytes.
	maxIssuerText = 300
	// maxPollInterval is the longest interval, in seconds, that an issuer can set for polling during a sign-in on a device.
	maxPollInterval = 60
	// signInTimeout is how long tare waits for somebody to sign in.
	signInTimeout = 10 * time.Minute
	// renewBefore is how long before its expiry a session token is renewed, so that none expires during a request.
	renewBefore = 30 * time.Second
	// signInWeb and signInDevice are the flags of login that choose how to sign in.
	signInWeb, signInDevice = "web", "device"
)

var (
	// errSignInEnded means that the issuer does not renew a profile's session token.
	errSignInEnded = errors.New("your session has ended")
	// errIssuerUnavailable means that a request got no answer from the issuer.
	errIssuerUnavailable = errors.New("no answer from the issuer")
)

// signIn is a session at an OpenID Connect issuer, which renews a profile's session token. It is stored with the profile.
type signIn struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
	// SessionToken names the token of the issuer that the service accepts: id_token or access_token.
	SessionToken string      `json:"session_token"`
	RefreshToken secret.Text `json:"refresh_token,omitzero"`
}

// issuer is what an OpenID Connect issuer publishes about itself.
type issuer struct {
	oauth2.Config
	provider    *oidc.Provider
	revocation  string // the URL of its revocation endpoint; empty if it has none
	namesItself bool   // its redirects have the parameter iss (RFC 9207)
}

// readSignInOptions asks a service at which issuer people sign in. It returns nil if there is none.
func readSignInOptions(ctx context.Context, a access) (*signIn, error) {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.baseURL+"/v1/sign-in", http.NoBody)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: newTransport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the service how to sign in: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the service how to sign in: it answers %s", response.Status)
	}
	var options aikeysv1.SignInOptionsResponse
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&options); err != nil {
		return nil, fmt.Errorf("ask the service how to sign in: %w", err)
	}
	if options.OIDC.ClientID == "" {
		return nil, nil //nolint:nilnil // there is no issuer
	}
	scopes := options.OIDC.Scopes
	if !slices.Contains(scopes, oidc.ScopeOpenID) {
		scopes = append([]string{oidc.ScopeOpenID}, scopes...)
	}
	return &signIn{Issuer: options.OIDC.Issuer, ClientID: options.OIDC.ClientID, Scopes: scopes, SessionToken: string(options.OIDC.SessionToken)}, nil
}

// discover reads what the issuer publishes about itself. Later requests to the issuer use ctx too.
func (s *signIn) discover(ctx context.Context, insecure bool) (*issuer, error) {
	if !isPrivate(s.Issuer, insecure) {
		return nil, cli.Usagef("the issuer is not at an https:// address, so others could read your credential on the way; use --insecure on a network that nobody else can reach")
	}
	var further struct {
		Revocation  string `json:"revocation_endpoint"`
		Keys        string `json:"jwks_uri"`
		NamesItself bool   `json:"authorization_response_iss_parameter_supported"`
	}
	provider, err := oidc.NewProvider(ctx, s.Issuer)
	if err == nil {
		err = provider.Claims(&further)
	}
	switch err = describeIssuerError(err); {
	case errors.Is(err, errIssuerUnavailable):
		return nil, err
	case err != nil:
		return nil, errors.New("this is not an OpenID Connect issuer: " + shortened(err.Error()))
	}
	endpoint := provider.Endpoint()
	for _, address := range []string{endpoint.AuthURL, endpoint.TokenURL, endpoint.DeviceAuthURL, further.Revocation, further.Keys} {
		if address != "" && !isPrivate(address, insecure) {
			return nil, errors.New("the issuer names an address that is not https://, so others could read your credential on the way")
		}
	}
	endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret to put into a header
	return &issuer{oauth2.Config{ClientID: s.ClientID, Endpoint: endpoint, Scopes: s.Scopes}, provider, further.Revocation, further.NamesItself}, nil
}

// isPrivate reports whether an address is https:// or on this machine. Nobody else can read what is sent to such an
// address. With insecure, isPrivate accepts any http:// address, too.
func isPrivate(address string, insecure bool) bool {
	u, err := url.Parse(address)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && (insecure || netaddr.IsLoopback(u.Hostname())))
}

// newIssuerClient returns a client for requests to an issuer. It does not redirect a POST, whose body has the code or the refresh token.
func newIssuerClient(insecure bool) *http.Client {
	return &http.Client{
		Transport: boundedTransport{newTransport()},
		Timeout:   issuerTimeout,
		CheckRedirect: func(to *http.Request, via []*http.Request) error {
			if via[0].Method != http.MethodGet || len(via) > 3 || !isPrivate(to.URL.String(), insecure) {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

// boundedTransport cuts off answers at maxIssuerAnswer.
type boundedTransport struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t boundedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, maxIssuerAnswer), response.Body}
	return response, nil
}

func issuerContext(ctx context.Context, insecure bool) context.Context {
	return oidc.ClientContext(ctx, newIssuerClient(insecure))
}

// signInAt waits until the user has signed in at the issuer, in the browser or on another device. It returns the session token, and
// sets the refresh token of s.
func (p *program) signInAt(ctx context.Context, s *signIn, way string, insecure bool) (secret.Text, error) {
	ctx, cancel := context.WithTimeout(issuerContext(ctx, insecure), signInTimeout)
	defer cancel()
	at, err := s.discover(ctx, insecure)
	if err != nil {
		return secret.Text{}, err
	}
	var token secret.Text
	if way == signInDevice {
		token, err = p.signInOnDevice(ctx, s, at)
	} else {
		token, err = p.signInInBrowser(ctx, s, at)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return secret.Text{}, fmt.Errorf("nobody signed in within %s", signInTimeout)
	}
	return token, err
}

// sessionToken checks the issuer's tokens, returns the one that is the session token, and stores the refresh token in s.
func (p *program) sessionToken(ctx context.Context, s *signIn, at *issuer, got *oauth2.Token, nonce string) (secret.Text, error) {
	refresh := secret.New(got.RefreshToken)
	p.registerSecret(refresh)
	if got.RefreshToken != "" {
		s.RefreshToken = refresh
	}
	idToken, _ := got.Extra("id_token").(string)
	if idToken != "" {
		verified, err := at.provider.VerifierContext(ctx, &oidc.Config{ClientID: s.ClientID}).Verify(ctx, idToken)
		if err != nil {
			return secret.Text{}, errors.New("the issuer returned an ID token that is not valid")
		}
		if nonce != "" && verified.Nonce != nonce {
			return secret.Text{}, errors.New("the issuer returned an ID token of another sign-in")
		}
	}
	token := secret.New(got.AccessToken)
	if s.SessionToken == string(aikeysv1.TokenKindIDToken) {
		token = secret.New(idToken)
	}
	if token.Reveal() == "" {
		return secret.Text{}, errors.New("the issuer returned no " + s.SessionToken)
	}
	p.registerSecret(token)
	return token, nil
}

// signInOutcome is how a sign-in has ended.
type signInOutcome struct {
	known chan struct{} // closed when err is set
	err   error
}

// signInInBrowser opens the issuer's page. After the sign-in, the issuer redirects the browser to a port of this
// machine (RFC 8252). The redirect contains a code, and signInInBrowser exchanges the code for the session token.
func (p *program) signInInBrowser(ctx context.Context, s *signIn, at *issuer) (secret.Text, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return secret.Text{}, err
	}
	at.RedirectURL = "http://" + listener.Addr().String() + "/callback"
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	returned, outcome := make(chan url.Values, 1), &signInOutcome{known: make(chan struct{})}
	server := &http.Server{ReadHeaderTimeout: issuerTimeout, Handler: redirectHandler(state, returned, outcome)}
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer stopAfterAnswers(ctx, server)
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce)}
	if slices.Contains(at.Scopes, oidc.ScopeOfflineAccess) { // a refresh token requires consent (OpenID Connect Core 11)
		options = append(options, oauth2.SetAuthURLParam("prompt", "consent"))
	}
	page := at.AuthCodeURL(state, options...)
	p.printNote("Sign in on this page: " + page)
	if at.Endpoint.DeviceAuthURL != "" {
		p.printNote("Without a browser on this machine, use: tare login --device")
	}
	go p.openPage(ctx, page)
	select {
	case query := <-returned:
		token, err := p.exchange(ctx, s, at, query, nonce, verifier)
		outcome.err = err
		close(outcome.known)
		return token, err
	case <-ctx.Done():
		return secret.Text{}, cmp.Or(context.Cause(ctx), errStopped)
	}
}

// exchange returns the session token for the code in the query of the issuer's redirect.
func (p *program) exchange(ctx context.Context, s *signIn, at *issuer, query url.Values, nonce, verifier string) (secret.Text, error) {
	code, by := query.Get("code"), query.Get("iss")
	if by != s.Issuer && (by != "" || at.namesItself) { // RFC 9207
		return secret.Text{}, errors.New("the answer to the sign-in is from another issuer")
	}
	if code == "" {
		return secret.Text{}, describeIssuerError(&oauth2.RetrieveError{
			ErrorCode: cmp.Or(query.Get("error"), "no code"), ErrorDescription: query.Get("error_description"),
		})
	}
	got, err := at.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return secret.Text{}, describeIssuerError(err)
	}
	return p.sessionToken(ctx, s, at, got, nonce)
}

// stopAfterAnswers stops a server after it has sent its answers.
func stopAfterAnswers(ctx context.Context, server *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // browsers also open connections that they do not use
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

// openPage opens a page in the browser, or with the program that BROWSER names. It may fail: the user has also seen the address.
func (p *program) openPage(ctx context.Context, page string) {
	if opener := p.Getenv("BROWSER"); opener != "" {
		// The program may be the browser itself, which should outlive tare.
		_ = exec.CommandContext(context.WithoutCancel(ctx), opener, page).Run() //nolint:gosec // G204: the user's own choice
		return
	}
	browser.Stdout, browser.Stderr = io.Discard, io.Discard
	_ = browser.OpenURL(page)
}

// redirectHandler handles the issuer's redirect. It sends the query of the first request with the right state to the
// channel returned, and then shows the outcome of the sign-in in the browser. It refuses requests without the right
// state, because any web page can make the browser send them.
func redirectHandler(state string, returned chan<- url.Values, outcome *signInOutcome) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		status, text := http.StatusOK, "You are signed in. You can close this page."
		switch {
		case r.Method != http.MethodGet || r.URL.Path != "/callback":
			status, text = http.StatusNotFound, "There is no such page."
		case query.Get("state") != state:
			status, text = http.StatusBadRequest, "This is the answer to another sign-in. Start again with: tare login"
		default:
			select {
			case returned <- query:
			default: // it was sent twice
			}
			select {
			case <-outcome.known:
			case <-r.Context().Done():
				return
			}
			if outcome.err != nil {
				text = "You are not signed in: " + cli.OneLine(outcome.err.Error()) + ". You can close this page."
			}
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "<!doctype html><html lang=en><title>AI Keys</title><p>%s</p>\n", html.EscapeString(text))
	})
}

// signInOnDevice shows a code and waits until the user has entered it on another device (RFC 8628).
func (p *program) signInOnDevice(ctx context.Context, s *signIn, at *issuer) (secret.Text, error) {
	if at.Endpoint.DeviceAuthURL == "" {
		return secret.Text{}, cli.Usagef("the issuer does not support --device; use --web, or an API key")
	}
	code, err := at.DeviceAuth(ctx)
	if err != nil {
		return secret.Text{}, describeIssuerError(err)
	}
	p.printNote(fmt.Sprintf("Open %s on any device, and enter the code %s", code.VerificationURI, code.UserCode))
	if code.VerificationURIComplete != "" {
		p.printNote("Or open " + code.VerificationURIComplete)
	}
	code.Interval = min(max(code.Interval, 0), maxPollInterval) // oauth2 panics for a negative one
	got, err := at.DeviceAccessToken(ctx, code)
	if err != nil && !code.Expiry.IsZero() && time.Now().After(code.Expiry) {
		err = &oauth2.RetrieveError{ErrorCode: "expired_token"} // polling ended before the issuer could say so
	}
	if err != nil {
		return secret.Text{}, describeIssuerError(err)
	}
	return p.sessionToken(ctx, s, at, got, "")
}

// describeIssuerError returns the error for a failed request to an issuer. It leaves out the response, which oauth2 would quote.
func describeIssuerError(err error) error {
	var (
		refused  *oauth2.RetrieveError
		noAnswer *url.Error
	)
	switch {
	case errors.As(err, &noAnswer):
		return hintedError{fmt.Errorf("%w: %w", errIssuerUnavailable, noAnswer.Err), "Try again when the issuer is up."}
	case !errors.As(err, &refused):
		return err
	case refused.ErrorCode == "access_denied":
		return fmt.Errorf("the sign-in was refused at the issuer: %w", errDeclined)
	case refused.ErrorCode == "expired_token":
		return errors.New("the code expired before anybody entered it")
	case refused.ErrorCode == "" && refused.Response != nil:
		return fmt.Errorf("the issuer answers %s", refused.Response.Status)
	}
	return errors.New(strings.TrimSuffix("the issuer refuses: "+shortened(refused.ErrorCode)+": "+shortened(refused.ErrorDescription), ": "))
}

// shortened returns the beginning of an issuer's text, which may be a whole page.
func shortened(text string) string {
	if len(text) > maxIssuerText {
		text = strings.ToValidUTF8(text[:maxIssuerText], "") + "…"
	}
	return text
}

// isSessionToken reports whether a credential is a session token (a JWT) rather than an API key.
func isSessionToken(credential secret.Text) bool { return strings.Count(credential.Reveal(), ".") == 2 }

// expiresSoon reports whether a credential is a session token (a JWT) that has expired or is about to. It does not verify the token.
func expiresSoon(credential secret.Text, now time.Time) bool {
	if !isSessionToken(credential) {
		return false
	}
	var claims struct {
		Expires float64 `json:"exp"` // in seconds since 1970; RFC 7519 allows fractions
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(credential.Reveal(), ".")[1])
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Expires == 0 {
		return false
	}
	return float64(now.Add(renewBefore).Unix()) >= claims.Expires
}

// connectable is resolveAccess, but renews a session token that is about to expire.
func (p *program) connectable(ctx context.Context) (access, error) {
	a, err := p.resolveAccess()
	if err != nil {
		return a, err
	}
	a.apiKey, err = p.validKey(ctx, a)
	return a, err
}

// validKey returns the API key of a. If it is a session token that is about to expire, validKey renews it first.
func (p *program) validKey(ctx context.Context, a access) (secret.Text, error) {
	isSpent := func(key secret.Text) bool { return expiresSoon(key, time.Now()) }
	if a.profile == "" || !isSpent(a.apiKey) {
		return a.apiKey, nil
	}
	return p.renewKey(ctx, a, isSpent)
}

// renewKey returns the current API key or session token of a's profile. If isSpent returns true for a session token,
// renewKey renews the token first. The lock on profiles.json lets only one tare renew at a time, because issuers accept
// each refresh token once.
func (p *program) renewKey(ctx context.Context, a access, isSpent func(secret.Text) bool) (secret.Text, error) {
	var failed error
	changed := p.changeProfiles(ctx, func(all *profiles) error {
		used := all.Profiles[a.profile]
		if used.storedIn() == "" || !isSameAddress(used.BaseURL, a.baseURL) { // another tare has logged out, or logged in elsewhere
			return errNotLoggedIn
		}
		if err := p.readKeyring(&used); err != nil {
			return err
		}
		a.apiKey = used.APIKey
		if used.SignIn == nil || !isSpent(used.APIKey) {
			return nil
		}
		signIn := *used.SignIn
		used.SignIn = &signIn
		failed = p.renew(ctx, &used, a.profile)
		a.apiKey = used.APIKey
		wasInKeyring := used.Keyring != ""
		if err := p.moveToKeyring(a.profile, &used); err != nil && wasInKeyring {
			p.printNote("tare: warning: the session is no longer in the system's keyring, but in profiles.json: " + cli.OneLine(err.Error()))
		}
		all.Profiles[a.profile] = used
		return nil // store the new refresh token, even if something failed afterwards
	})
	return a.apiKey, cmp.Or(changed, failed)
}

// renew replaces the session token of a profile.
func (p *program) renew(ctx context.Context, used *profile, name string) error {
	ended := hintedError{errSignInEnded, "Log in again with: tare login --web --profile " + name}
	if used.SignIn.RefreshToken.Reveal() == "" {
		return ended
	}
	ctx = issuerContext(ctx, used.Insecure)
	at, err := used.SignIn.discover(ctx, used.Insecure)
	if err != nil {
		return err
	}
	// An issuer that rotates refresh tokens accepts only the new one from now on, so nothing may interrupt this request.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), issuerTimeout)
	defer cancel()
	got, err := at.TokenSource(ctx, &oauth2.Token{RefreshToken: used.SignIn.RefreshToken.Reveal()}).Token()
	if refused := (*oauth2.RetrieveError)(nil); errors.As(err, &refused) && refused.ErrorCode == "invalid_grant" {
		return ended
	}
	if err != nil {
		return describeIssuerError(err)
	}
	token, err := p.sessionToken(ctx, used.SignIn, at, got, "")
	if err != nil {
		return err
	}
	used.APIKey = token
	return nil
}

// endSignIn ends the session of a profile at the issuer, if it has one, and warns if that fails.
func (p *program) endSignIn(ctx context.Context, s *signIn, insecure bool) {
	if s == nil {
		return
	}
	if err := s.revoke(ctx, insecure); err != nil {
		p.printNote("tare: warning: the session at the issuer could not be ended: " + cli.OneLine(err.Error()))
	}
}

// revoke ends the session at the issuer (RFC 7009).
func (s *signIn) revoke(ctx context.Context, insecure bool) error {
	if s.RefreshToken.Reveal() == "" { // there is only the session token, which expires
		return nil
	}
	ctx, cancel := context.WithTimeout(issuerContext(ctx, insecure), issuerTimeout)
	defer cancel()
	at, err := s.discover(ctx, insecure)
	if err != nil {
		return err
	}
	if at.revocation == "" {
		return errors.New("the issuer does not support that")
	}
	form := url.Values{"token": {s.RefreshToken.Reveal()}, "token_type_hint": {"refresh_token"}, "client_id": {s.ClientID}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := newIssuerClient(insecure).Do(request)
	if err != nil {
		return describeIssuerError(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the issuer answers %s", response.Status)
	}
	return nil
}
