package main

import (
	"fmt"
)

// load takes the variables, which flags outrank, and checks them. Its error names all that is wrong at once.
func (s *config) load(environ []string) error { return s.Read(environ, s.checkTLS) }

// checkTLS: mutual TLS needs three files, and a socket none.
func (s *config) checkTLS() (complaints []string) {
	_, isSocket := s.socketPath()
	for _, name := range []string{"tls-cert", "tls-key", "tls-client-ca"} {
		setting := s.Of(name)
		switch given := setting.String() != ""; {
		case s.Listen == "": // it is complained of already
		case isSocket && given:
			complaints = append(complaints, fmt.Sprintf("%s: is for mutual TLS, and %s is a unix socket", setting.Given(), s.Of("listen").Given()))
		case !isSocket && !given:
			complaints = append(complaints, fmt.Sprintf("%s: is required, as %s is no unix socket: clients must be told by their certificates",
				setting.Given(), s.Of("listen").Given()))
		}
	}
	if !isSocket && s.SocketGroup != "" {
		complaints = append(complaints, s.Of("socket-group").Given()+": is for a unix socket")
	}
	return complaints
}
