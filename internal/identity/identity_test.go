package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/identity"
)

func TestParseCertificate(t *testing.T) {
	for text, want := range map[string]identity.Identity{
		"dns:edge.internal":      {Kind: identity.DNSName, Name: "edge.internal"},
		"uri:spiffe://acme/edge": {Kind: identity.URI, Name: "spiffe://acme/edge"},
		"cn:Kanten-Tür 1":        {Kind: identity.CommonName, Name: "Kanten-Tür 1"},
	} {
		got, err := identity.ParseCertificate(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
		require.Equal(t, text, got.String())
	}
	for _, text := range []string{"", "dns", "dns:", "edge.internal", "uid:1001", "DNS:edge", " dns:edge", "cn:a\nb", "cn:a\x00", "cn:\xff"} {
		_, err := identity.ParseCertificate(text)
		require.ErrorIs(t, err, identity.ErrNoName, text)
	}
}

// subjectAltName returns an extension with exactly these URIs. A parser might write them differently.
func subjectAltName(t *testing.T, uris ...string) pkix.Extension {
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	require.NoError(t, err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

func TestURIsAreExactlyThoseOfTheCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	written := []string{"spiffe://acme/x", "SPIFFE://acme/x", "spiffe://acme/x#", "spiffe://acme/%78", "spiffe://ACME/x", "spiffe://acme/x?"}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{subjectAltName(t, written...)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	names, _ := identity.OfCertificate(&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}, time.Now())
	var uris []string
	for _, name := range names {
		require.Equal(t, identity.URI, name.Kind)
		uris = append(uris, name.Name)
	}
	require.Equal(t, written, uris)
}

func TestOfCertificate(t *testing.T) {
	now := time.Now()
	leaf := &x509.Certificate{
		DNSNames: []string{"edge.internal", "a\nb", ""}, Extensions: []pkix.Extension{subjectAltName(t, "spiffe://acme")},
		Subject: pkix.Name{CommonName: "edge"}, NotAfter: now,
	}
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	for name, tc := range map[string]struct {
		connection *tls.ConnectionState
		now, until time.Time
		names      []identity.Identity
	}{
		"a verified certificate, without names that can't be listed": {verified, now, now, []identity.Identity{
			{Kind: identity.DNSName, Name: "edge.internal"}, {Kind: identity.URI, Name: "spiffe://acme"}, {Kind: identity.CommonName, Name: "edge"},
		}},
		"an expired certificate":        {verified, now.Add(1), now, nil},
		"no TLS":                        {nil, now, time.Time{}, nil},
		"no certificate":                {&tls.ConnectionState{}, now, time.Time{}, nil},
		"a certificate without a check": {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, now, time.Time{}, nil},
		"no chain":                      {&tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{}}, now, time.Time{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			names, until := identity.OfCertificate(tc.connection, tc.now)
			require.Equal(t, tc.names, names)
			require.Equal(t, tc.until, until)
		})
	}
}
