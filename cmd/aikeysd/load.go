package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/models"
)

// load takes the variables, which flags outrank, and checks them. Its error names all that is wrong at once.
func (s *config) load(environ []string) error {
	return s.Read(environ, s.checkDatabase, s.checkSealer, s.checkListeners, s.checkOIDC)
}

// loadToServe is load, and reads the files that only a server needs: operators may lack the right to.
func (s *config) loadToServe(environ []string) error {
	return s.Read(environ, s.checkDatabase, s.checkSealer, s.checkListeners, s.checkOIDC, s.checkCertificates, s.checkSealerFiles)
}

func (s *config) checkDatabase() (complaints []string) {
	given, err := s.OrFile("database-url", &s.DatabaseURL)
	if err != nil {
		return []string{err.Error()}
	}
	scheme, path, _ := strings.Cut(s.DatabaseURL, ":")
	switch {
	case isSQLite(s.DatabaseURL) && path != "" && path != ":memory:":
		return nil
	case given.Name == "database-url" && given.Origin() == settings.FromFlag && mayHoldPassword(s.DatabaseURL):
		return []string{"--database-url: every user of this machine can see it in the process list, so it may hold no password; use " +
			given.Variable() + ", or a file and " + s.Of("database-url-file").Variable()}
	case scheme != "postgres" && scheme != "postgresql":
		return []string{given.Given() + ": must be sqlite:<path> or postgres://<user>@<host>/<database>"}
	}
	store, err := models.Open(s.DatabaseURL, models.Options{}) // knows which URLs are sound, and connects to nothing
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		return []string{given.Given() + ": " + err.Error()}
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

func (s *config) checkListeners() (complaints []string) {
	cert, key := s.Of("tls-cert"), s.Of("tls-key")
	if (s.TLSCert == "") != (s.TLSKey == "") {
		complaints = append(complaints, fmt.Sprintf("%s and %s: give both or none", cert.Given(), key.Given()))
	}
	if s.DataplaneCA != "" && s.TLSCert == "" && s.TLSKey == "" {
		complaints = append(complaints, fmt.Sprintf("%s: client certificates need TLS; set %s and %s",
			s.Of("dataplane-client-ca").Given(), cert.Variable(), key.Variable()))
	}
	for _, listen := range []*settings.Setting{s.Of("listen"), s.Of("dataplane-listen")} {
		if s.TLSCert == "" && s.TLSKey == "" && !s.Insecure && reachesOthers(listen) {
			complaints = append(complaints, fmt.Sprintf(
				"%s: beyond this machine, API keys and secrets would travel in the clear; set %s and %s, or %s=true behind a proxy that terminates TLS",
				listen.Given(), cert.Variable(), key.Variable(), s.Of("insecure").Variable()))
		}
	}
	taken := map[string]*settings.Setting{}
	for _, name := range listenSettings() {
		listen := s.Of(name)
		if other := taken[listen.String()]; other != nil {
			complaints = append(complaints, fmt.Sprintf("%s and %s: must differ", other.Given(), listen.Given()))
		} else if !strings.HasSuffix(listen.String(), ":0") {
			taken[listen.String()] = listen
		}
	}
	return complaints
}

// listenSettings are the addresses that the service listens on.
func listenSettings() []string { return []string{"listen", "dataplane-listen", "ops-listen"} }

// reachesOthers tells whether an address can be reached from beyond this machine. One that is none is complained of already.
func reachesOthers(listen *settings.Setting) bool {
	return listen.Parse(listen.String()) == nil && !settings.IsLoopback(listen.String())
}

func (s *config) checkCertificates() (complaints []string) {
	if s.TLSCert != "" && s.TLSKey != "" {
		if _, err := tlsfiles.ReadPair(s.TLSCert, s.TLSKey); err != nil {
			complaints = append(complaints, fmt.Sprintf("%s and %s: %s", s.Of("tls-cert").Given(), s.Of("tls-key").Given(), err))
		}
	}
	if s.DataplaneCA != "" {
		if _, err := tlsfiles.ReadPool(s.DataplaneCA); err != nil {
			complaints = append(complaints, fmt.Sprintf("%s: %s", s.Of("dataplane-client-ca").Given(), err))
		}
	}
	return complaints
}

func (s *config) checkOIDC() []string {
	issuer := s.Of("oidc-issuer")
	if s.OIDCIssuer == "" {
		if s.OIDCAudience != "" || s.OIDCClaims != "" {
			return []string{issuer.Given() + ": is required when an audience or claims are given"}
		}
		return nil
	}
	if _, err := s.oidc(); err != nil {
		return []string{issuer.Given() + ": " + err.Error()}
	}
	return nil
}

// oidc returns the verifier of session tokens, nil when none are accepted.
func (s *config) oidc() (*auth.OIDC, error) {
	if s.OIDCIssuer == "" {
		return nil, nil //nolint:nilnil // no issuer, no verifier
	}
	claims, err := auth.ParseClaimNames(s.OIDCClaims)
	if err != nil {
		return nil, err
	}
	return auth.NewOIDC(auth.OIDCConfig{Issuer: s.OIDCIssuer, Audience: s.OIDCAudience, Claims: claims})
}
