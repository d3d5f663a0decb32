// Package httpapitest makes TLS certificates for tests. It imports nothing of ours.
package httpapitest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Certificate is a self-signed certificate for 127.0.0.1, in files.
type Certificate struct {
	CertFile, KeyFile string
}

// WriteCertificate makes a certificate with a serial number, and writes tls.crt and tls.key into dir over what is there.
func WriteCertificate(t testing.TB, dir string, serial int64) Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	files := Certificate{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	writePEM(t, files.CertFile, "CERTIFICATE", cert)
	writePEM(t, files.KeyFile, "PRIVATE KEY", private)
	return files
}

// Pool returns the roots that trust the certificate as it is in its file now.
func (c Certificate) Pool(t testing.TB) *x509.CertPool {
	t.Helper()
	cert, err := os.ReadFile(c.CertFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(cert))
	return pool
}

// writePEM puts a whole new file in the place of the old one, as renewers do.
func writePEM(t testing.TB, path, kind string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}
