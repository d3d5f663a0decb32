package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
)

// load takes the variables, which flags outrank, and checks them. Its error names all that is wrong at once.
func (s *config) load(environ []string) error {
	return s.Read(environ, s.checkCredential, s.checkForwardAuth, s.checkControlPlane, s.checkUpstreams, s.checkListeners, s.checkCertificate)
}

// checkCredential: a token or a client certificate, and not both.
func (s *config) checkCredential() []string {
	token, cert, key := s.Of("token-file"), s.Of("client-cert"), s.Of("client-key")
	target, err := url.Parse(s.ControlPlane)
	switch {
	case s.TokenFile == "" && s.ClientCert == "" && s.ClientKey == "":
		return []string{fmt.Sprintf("%s: is required, or %s and %s; \"aikeysd admin dataplane create\" prints what it holds",
			token.Given(), cert.Variable(), key.Variable())}
	case s.TokenFile != "" && s.ClientCert+s.ClientKey != "":
		return []string{fmt.Sprintf("%s, %s and %s: give a token or a client certificate, not both", token.Given(), cert.Given(), key.Given())}
	case s.TokenFile != "":
		if _, err := readCredential(s.TokenFile); err != nil {
			return []string{token.Given() + ": " + err.Error()}
		}
	case s.ClientCert == "" || s.ClientKey == "":
		return []string{fmt.Sprintf("%s and %s: give both or none", cert.Given(), key.Given())}
	case err == nil && target.Scheme == "http": // of what else is wrong with it, others complain
		return []string{fmt.Sprintf("%s: a client certificate needs https, and %s is http", cert.Given(), s.Of("control-plane").Given())}
	default:
		if _, err := tlsfiles.ReadPair(s.ClientCert, s.ClientKey); err != nil {
			return []string{fmt.Sprintf("%s and %s: %s", cert.Given(), key.Given(), err)}
		}
	}
	return nil
}

func (s *config) checkForwardAuth() []string {
	if s.ForwardAuthFile == "" {
		return nil
	}
	if _, err := readSecret(s.ForwardAuthFile); err != nil {
		return []string{s.Of("forward-auth-secret-file").Given() + ": " + err.Error()}
	}
	return nil
}

func (s *config) checkControlPlane() (complaints []string) {
	setting := s.Of("control-plane")
	target, err := url.Parse(s.ControlPlane)
	switch {
	case err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" || target.User != nil:
		complaints = append(complaints, setting.Given()+": must be an http or https URL without user and password, such as https://aikeys-dataplane.example.com")
	case target.Scheme == "http" && !s.Insecure && !isThisMachine(target):
		complaints = append(complaints, fmt.Sprintf("%s: beyond this machine, providers' keys would travel in the clear; use https, or set %s=true",
			setting.Given(), s.Of("insecure").Variable()))
	}
	if s.ControlPlaneCA != "" {
		if _, err := tlsfiles.ReadPool(s.ControlPlaneCA); err != nil {
			complaints = append(complaints, s.Of("control-plane-ca").Given()+": "+err.Error())
		}
	}
	return complaints
}

func (s *config) checkUpstreams() (complaints []string) {
	if err := gateway.CheckUpstreams(s.Upstreams); err != nil {
		for line := range strings.Lines(err.Error()) {
			complaints = append(complaints, s.Of("upstream").Given()+": "+strings.TrimSpace(line))
		}
	}
	return complaints
}

func isThisMachine(u *url.URL) bool { return settings.IsLoopback(net.JoinHostPort(u.Hostname(), "0")) }

func (s *config) checkListeners() (complaints []string) {
	cert, key := s.Of("tls-cert"), s.Of("tls-key")
	if (s.TLSCert == "") != (s.TLSKey == "") {
		complaints = append(complaints, fmt.Sprintf("%s and %s: give both or none", cert.Given(), key.Given()))
	}
	if s.TLSCert == "" && s.TLSKey == "" && !s.Insecure && reachesOthers(s.Of("listen")) {
		complaints = append(complaints, fmt.Sprintf(
			"%s: beyond this machine, callers' API keys would travel in the clear; set %s and %s, or %s=true behind a proxy that terminates TLS",
			s.Of("listen").Given(), cert.Variable(), key.Variable(), s.Of("insecure").Variable()))
	}
	for _, name := range []string{"forward-auth-listen", "ext-authz-listen"} {
		if listen := s.Of(name); !s.Insecure && reachesOthers(listen) {
			complaints = append(complaints, fmt.Sprintf(
				"%s: its answers hold providers' keys in the clear, so it listens on this machine only; set %s=true where nobody but the proxy reaches it",
				listen.Given(), s.Of("insecure").Variable()))
		}
	}
	taken := map[string]*settings.Setting{}
	for _, name := range []string{"listen", "forward-auth-listen", "ext-authz-listen", "ops-listen"} {
		listen := s.Of(name)
		if other := taken[listen.String()]; other != nil {
			complaints = append(complaints, fmt.Sprintf("%s and %s: must differ", other.Given(), listen.Given()))
		} else if listen.String() != "" && !strings.HasSuffix(listen.String(), ":0") {
			taken[listen.String()] = listen
		}
	}
	return complaints
}

// reachesOthers tells whether an address can be reached from beyond this machine. One that is none is complained of already.
func reachesOthers(listen *settings.Setting) bool {
	return listen.String() != "" && listen.Parse(listen.String()) == nil && !settings.IsLoopback(listen.String())
}

func (s *config) checkCertificate() []string {
	if s.TLSCert == "" || s.TLSKey == "" {
		return nil
	}
	if _, err := tlsfiles.ReadPair(s.TLSCert, s.TLSKey); err != nil {
		return []string{fmt.Sprintf("%s and %s: %s", s.Of("tls-cert").Given(), s.Of("tls-key").Given(), err)}
	}
	return nil
}

// readSecret reads a file that holds one secret. Its error does not quote the secret.
func readSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New("the file must hold one word of printable ASCII")
	}
	return secret, nil
}

// credentialPrefix begins the credentials of data planes.
const credentialPrefix = "dp_"

// readCredential reads a file that holds the credential of a data plane.
func readCredential(file string) (string, error) {
	credential, err := readSecret(file)
	if err == nil && !strings.HasPrefix(credential, credentialPrefix) {
		return "", errors.New("the file must hold the credential of a data plane, " + credentialPrefix + "…, as \"aikeysd admin dataplane create\" prints it")
	}
	return credential, err
}
