package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/identity"
)

func TestNamesOfCertificatesAreReadAsTheyAreWritten(t *testing.T) {
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

func TestOnlyAVerifiedCertificateThatIsGoodHasNames(t *testing.T) {
	now := time.Now()
	leaf := &x509.Certificate{DNSNames: []string{"edge.internal", "a\nb", ""}, URIs: []*url.URL{{Scheme: "spiffe", Host: "acme"}}, NotAfter: now}
	leaf.Subject.CommonName = "edge"
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}

	names, until := identity.OfCertificate(verified, now)
	require.Equal(t, now, until)
	require.Equal(t, []identity.Identity{
		{Kind: identity.DNSName, Name: "edge.internal"}, {Kind: identity.URI, Name: "spiffe://acme"}, {Kind: identity.CommonName, Name: "edge"},
	}, names, "without those that nobody could be listed by")

	names, until = identity.OfCertificate(verified, now.Add(1))
	require.Empty(t, names)
	require.Equal(t, now, until)
	for _, connection := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{leaf}}} {
		names, _ := identity.OfCertificate(connection, now)
		require.Empty(t, names)
	}
}
