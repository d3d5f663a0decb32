package main

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/session"
	"github.com/agentrouter/aikeys/models"
)

// load takes the variables, which flags outrank, and checks them. Its error names all that is wrong at once.
func (s *settings) load(environ []string) error {
	return s.loadAnd(environ, s.checkDatabase, s.checkSealer, s.checkListeners, s.checkOIDC)
}

// loadToServe is load, and reads the files that only a server needs: operators may lack the right to.
func (s *settings) loadToServe(environ []string) error {
	return s.loadAnd(environ, s.checkDatabase, s.checkSealer, s.checkListeners, s.checkOIDC, s.checkCertificate)
}

func (s *settings) loadAnd(environ []string, checks ...func() []string) error {
	complaints := s.takeVariables(environ)
	for _, d := range s.declared {
		if d.text == "" && d.def != "" {
			complaints = append(complaints, d.given()+": must not be empty; leave it out for its default, "+d.def)
		} else if err := d.parse(d.text); err != nil {
			complaints = append(complaints, d.given()+": "+err.Error())
		}
	}
	for _, check := range checks {
		complaints = append(complaints, check()...)
	}
	if len(complaints) > 0 {
		return &usageError{complaints}
	}
	return nil
}

// serviceLink matches what Kubernetes puts into the environment of every pod when a Service is named aikeys
// (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables). They are not settings. Those
// of a Service named aikeys-… can't be told from settings that are mistyped.
var serviceLink = regexp.MustCompile(`^AIKEYS_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

func (s *settings) takeVariables(environ []string) (complaints []string) {
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(variable, variablePrefix) || serviceLink.MatchString(variable) {
			continue
		}
		i := slices.IndexFunc(s.declared, func(d *setting) bool { return d.variable() == variable })
		switch {
		case i < 0:
			complaints = append(complaints, variable+": no such setting; "+s.suggestion(variable))
		case s.declared[i].origin != fromFlag:
			s.declared[i].text, s.declared[i].origin = text, fromVariable
		}
	}
	return complaints
}

func (s *settings) checkDatabase() (complaints []string) {
	given, file := s.of("database-url"), s.of("database-url-file")
	if s.DatabaseURLFile != "" {
		if given.origin != fromDefault {
			return []string{fmt.Sprintf("%s and %s: give one of them, not both", given.given(), file.given())}
		}
		content, err := os.ReadFile(s.DatabaseURLFile)
		if err != nil {
			return []string{file.given() + ": " + err.Error()}
		}
		s.DatabaseURL = strings.TrimSpace(string(content))
		given = file
	}
	scheme, path, _ := strings.Cut(s.DatabaseURL, ":")
	switch {
	case isSQLite(s.DatabaseURL) && path != "" && path != ":memory:":
		return nil
	case given.origin == fromFlag && given != file && mayHoldPassword(s.DatabaseURL):
		return []string{"--database-url: every user of this machine can see it in the process list, so it may hold no password; use " +
			given.variable() + ", or a file and " + file.variable()}
	case scheme != "postgres" && scheme != "postgresql":
		return []string{given.given() + ": must be sqlite:<path> or postgres://<user>@<host>/<database>"}
	}
	store, err := models.Open(s.DatabaseURL, models.Options{}) // knows which URLs are sound, and connects to nothing
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		return []string{given.given() + ": " + err.Error()}
	}
	return nil
}

// mayHoldPassword errs on the safe side: what can't be read may hold one.
func mayHoldPassword(databaseURL string) bool {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return true
	}
	_, inUser := u.User.Password()
	return inUser || u.Query().Has("password") || u.Query().Has("sslpassword")
}

// sealerLocal is the scheme of the one sealer that is built in.
const sealerLocal = "local"

func (s *settings) checkSealer() []string {
	scheme, path, _ := strings.Cut(s.Sealer, ":")
	if scheme != sealerLocal || path == "" {
		return []string{s.of("sealer").given() + ": must be local:<path of a keyset file>, the one kind that is supported"}
	}
	return nil
}

func (s *settings) keysetPath() string { return strings.TrimPrefix(s.Sealer, sealerLocal+":") }

func (s *settings) checkListeners() (complaints []string) {
	listen, cert, key := s.of("listen"), s.of("tls-cert"), s.of("tls-key")
	if (s.TLSCert == "") != (s.TLSKey == "") {
		complaints = append(complaints, fmt.Sprintf("%s and %s: give both or none", cert.given(), key.given()))
	}
	if s.TLSCert == "" && s.TLSKey == "" && !s.Insecure && !isLoopback(s.Listen) {
		complaints = append(complaints, fmt.Sprintf(
			"%s: beyond this machine, API keys and secrets would travel in the clear; set %s and %s, or %s=true behind a proxy that terminates TLS",
			listen.given(), cert.variable(), key.variable(), s.of("insecure").variable()))
	}
	if s.Listen == s.OpsListen && !strings.HasSuffix(s.Listen, ":0") {
		complaints = append(complaints, fmt.Sprintf("%s and %s: must differ", listen.given(), s.of("ops-listen").given()))
	}
	return complaints
}

func (s *settings) checkCertificate() []string {
	if s.TLSCert == "" || s.TLSKey == "" {
		return nil
	}
	if _, err := httpapi.LoadCertificates(s.TLSCert, s.TLSKey, nil); err != nil {
		return []string{fmt.Sprintf("%s and %s: %s", s.of("tls-cert").given(), s.of("tls-key").given(), err)}
	}
	return nil
}

func (s *settings) checkOIDC() []string {
	issuer := s.of("oidc-issuer")
	if s.OIDCIssuer == "" {
		if s.OIDCAudience != "" || s.OIDCClaims != "" {
			return []string{issuer.given() + ": is required when an audience or claims are given"}
		}
		return nil
	}
	if _, err := s.oidc(); err != nil {
		return []string{issuer.given() + ": " + err.Error()}
	}
	return nil
}

// oidc returns the verifier of session tokens, nil when none are accepted.
func (s *settings) oidc() (*session.OIDC, error) {
	if s.OIDCIssuer == "" {
		return nil, nil //nolint:nilnil // no issuer, no verifier
	}
	claims, err := session.ParseClaimNames(s.OIDCClaims)
	if err != nil {
		return nil, err
	}
	return session.NewOIDC(session.OIDCConfig{Issuer: s.OIDCIssuer, Audience: s.OIDCAudience, Claims: claims})
}
