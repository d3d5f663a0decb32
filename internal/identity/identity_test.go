package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
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

func TestOfCertificate(t *testing.T) {
	now := time.Now()
	leaf := &x509.Certificate{
		DNSNames: []string{"edge.internal", "a\nb", ""}, URIs: []*url.URL{{Scheme: "spiffe", Host: "acme"}},
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
