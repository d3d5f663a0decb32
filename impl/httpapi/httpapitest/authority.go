package httpapitest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Authority signs the certificates of clients.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one that nobody knows yet, with a name of its own.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority " + rand.Text()}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return a
}

// Write puts the authority's own certificate into a file.
func (a *Authority) Write(t testing.TB, file string) string {
	t.Helper()
	writePEM(t, file, "CERTIFICATE", a.cert.Raw)
	return file
}

// Issue makes a client's certificate, which change names, and writes client.crt and client.key into dir over what is there.
func (a *Authority) Issue(t testing.TB, dir string, change func(*x509.Certificate)) Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	files := Certificate{CertFile: filepath.Join(dir, "client.crt"), KeyFile: filepath.Join(dir, "client.key")}
	writePEM(t, files.KeyFile, "PRIVATE KEY", private)
	writePEM(t, files.CertFile, "CERTIFICATE", cert)
	return files
}

// Named names a certificate by the subject alternative name of a host.
func Named(host string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.DNSNames = []string{host} }
}

// Show is a tls.Config's GetClientCertificate that shows the certificate whatever the server asks for.
func (c Certificate) Show(t testing.TB) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	require.NoError(t, err)
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
}
