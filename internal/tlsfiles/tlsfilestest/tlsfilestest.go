// Package tlsfilestest makes TLS certificates for tests.
package tlsfilestest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Certificate is a certificate and its private key, in PEM files.
type Certificate struct {
	CertFile, KeyFile string
}

// WriteCertificate makes a self-signed certificate for 127.0.0.1 and replaces tls.crt and tls.key in dir.
func WriteCertificate(t testing.TB, dir string, serial int64) Certificate {
	t.Helper()
	template := newTemplate(serial)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	_, files := write(t, filepath.Join(dir, "tls"), template, nil)
	return files
}

// newTemplate returns a certificate that is valid now.
func newTemplate(serial int64) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
}

// write signs a certificate, and writes name.crt and name.key. If there is no authority, it signs with the
// certificate's own key.
func write(t testing.TB, name string, template *x509.Certificate, by *Authority) (*Authority, Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	if by == nil {
		by = &Authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	files := Certificate{CertFile: name + ".crt", KeyFile: name + ".key"}
	writePEM(t, files.KeyFile, "PRIVATE KEY", private)
	writePEM(t, files.CertFile, "CERTIFICATE", der)
	return &Authority{cert, key}, files
}

// Pool returns a pool of the certificate that the file holds now.
func (c Certificate) Pool(t testing.TB) *x509.CertPool {
	t.Helper()
	cert, err := os.ReadFile(c.CertFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(cert))
	return pool
}

// writePEM replaces a file in one step, as programs that renew certificates do.
func writePEM(t testing.TB, path, kind string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// Authority is a certificate authority.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority with a unique name.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	template := newTemplate(1)
	template.Subject, template.KeyUsage = pkix.Name{CommonName: "authority " + rand.Text()}, x509.KeyUsageCertSign
	template.IsCA, template.BasicConstraintsValid = true, true
	authority, _ := write(t, filepath.Join(t.TempDir(), "authority"), template, nil)
	return authority
}

// Write writes the authority's own certificate to a file and returns the file's path.
func (a *Authority) Write(t testing.TB, file string) string {
	t.Helper()
	writePEM(t, file, "CERTIFICATE", a.cert.Raw)
	return file
}

// Issue makes a client certificate, edited by change, and replaces client.crt and client.key in dir.
func (a *Authority) Issue(t testing.TB, dir string, change func(*x509.Certificate)) Certificate {
	t.Helper()
	template := newTemplate(time.Now().UnixNano())
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	change(template)
	_, files := write(t, filepath.Join(dir, "client"), template, a)
	return files
}

// Named returns a change for Issue that gives the certificate the DNS name host.
func Named(host string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = []string{host} }
}

// Show returns a tls.Config.GetClientCertificate that sends the certificate even if the server does not accept its
// authority.
func (c Certificate) Show(t testing.TB) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	require.NoError(t, err)
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
}
