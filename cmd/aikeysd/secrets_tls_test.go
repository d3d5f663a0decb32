package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// writeClientCertificate makes a self-signed certificate with a common name, and returns its file and its key's.
func writeClientCertificate(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certFile, keyFile
}

// testMutualTLS has the service tell its client by a certificate. Another one's, which it trusts too, may do nothing.
func testMutualTLS(t *testing.T, binary string) {
	service := newSecretsService(t, binary, everything)
	server := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	certFile, keyFile := writeClientCertificate(t, "aikeysd.internal")
	strangerCert, strangerKey := writeClientCertificate(t, "somebody.internal")
	var authorities []byte
	for _, file := range []string{certFile, strangerCert} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		authorities = append(authorities, text...)
	}
	trusted := filepath.Join(service.dir, "clients.crt")
	require.NoError(t, os.WriteFile(trusted, authorities, 0o600))
	clients := fmt.Sprintf("clients: [{name: aikeysd, certificates: [cn:aikeysd.internal], namespace: main, may: [%s]}]\n", everything)
	require.NoError(t, os.WriteFile(filepath.Join(service.dir, "clients.yaml"), []byte(clients), 0o600))
	service.startOn("127.0.0.1:0", "--tls-cert", server.CertFile, "--tls-key", server.KeyFile, "--tls-client-ca", trusted)
	address := service.awaitAddress()

	environ := with(newLocalEnviron(t), "AIKEYS_SEALER=secrets+https://"+address, "AIKEYS_SEALER_CA="+server.CertFile,
		"AIKEYS_SEALER_CERT="+certFile, "AIKEYS_SEALER_KEY="+keyFile)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	got := call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", token, registerBody("a", fakeSecret))
	require.Equal(t, http.StatusCreated, got.status, got.body)
	require.Equal(t, exitOK, s.wait())

	stranger := start(t, with(environ, "AIKEYS_SEALER_CERT="+strangerCert, "AIKEYS_SEALER_KEY="+strangerKey), "serve")
	stranger.eventually("it waits for permission", func() bool {
		return strings.Contains(stranger.stderr.String(), `"waiting_for":"secrets-svc's permission"`)
	})
	require.Equal(t, exitOK, stranger.wait())
}

// startOn starts the process on an address. It ends with this one.
func (s *secretsService) startOn(address string, flags ...string) *secretsService {
	s.t.Helper()
	s.cmd = exec.CommandContext(s.t.Context(), s.binary, append([]string{"serve", "--listen", address, "--ops-listen", "127.0.0.1:0",
		"--keys", s.dir, "--clients", filepath.Join(s.dir, "clients.yaml"), "--audit-log", filepath.Join(s.dir, "audit.log")}, flags...)...)
	s.cmd.Stderr, s.cmd.Env = s.stderr, []string{}
	require.NoError(s.t, s.cmd.Start())
	s.t.Cleanup(s.kill)
	return s
}

// awaitAddress returns the address of the process, once it listens.
func (s *secretsService) awaitAddress() (address string) {
	s.t.Helper()
	listening := regexp.MustCompile(`"api":"https://([^"]+)"`)
	require.Eventually(s.t, func() bool {
		found := listening.FindStringSubmatch(s.stderr.String())
		if found != nil {
			address = found[1]
		}
		return found != nil
	}, patience, 5*time.Millisecond, "%s", s.stderr)
	return address
}
