package main

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

func TestServeOverTLSAndRenewTheCertificate(t *testing.T) {
	dir := t.TempDir()
	certificate := tlsfilestest.WriteCertificate(t, dir, 1)
	environ := with(newEnviron(t), "AIKEYS_LISTEN=0.0.0.0:0", "AIKEYS_TLS_CERT="+certificate.CertFile, "AIKEYS_TLS_KEY="+certificate.KeyFile)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	require.Regexp(t, `^https://`, s.api)
	url := "https://127.0.0.1" + s.api[len("https://[::]"):] + "/v1/whoami"

	client := newClient()
	trust := func() {
		client.Transport = &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: certificate.Pool(t), MinVersion: tls.VersionTLS12},
		}
	}
	trust()
	answer := call(t, client, http.MethodGet, url, token, "")
	require.Equal(t, http.StatusOK, answer.status)
	require.Equal(t, "max-age=31536000", answer.header.Get("Strict-Transport-Security"))

	tlsfilestest.WriteCertificate(t, dir, 2)
	trust()
	s.eventually("the new certificate serves without a restart", func() bool {
		_, err := tryCall(t.Context(), client, http.MethodGet, url, token, "")
		return err == nil
	})
	require.Equal(t, exitOK, s.wait())
}
