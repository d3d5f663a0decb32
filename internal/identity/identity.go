// Package identity identifies the client at the other end of a connection: by the user of a process on this machine, or by a name in a
// client certificate.
package identity

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Identity is one name of a client, which may have several.
type Identity struct {
	Kind Kind
	Name string
}

// Kind is the kind of an Identity's name.
type Kind string

// The kinds of names. Operators write the kind before the name, as in dns:aikeysd.internal.
const (
	UID        Kind = "uid" // the number of a user on this machine
	DNSName    Kind = "dns" // subject alternative names of a certificate
	URI        Kind = "uri"
	CommonName Kind = "cn" // of the certificate's subject
)

// String returns the identity as operators write it.
func (i Identity) String() string { return string(i.Kind) + ":" + i.Name }

// ErrNoName means that a text is not a name in a certificate.
var ErrNoName = errors.New("must be dns:<name>, uri:<name> or cn:<name>")

// ParseCertificate parses a name in a certificate, as String writes it. Names are compared exactly; there are no wildcards.
// The error is ErrNoName.
func ParseCertificate(text string) (Identity, error) {
	kind, name, _ := strings.Cut(text, ":")
	i := Identity{Kind(kind), name}
	if !slices.Contains([]Kind{DNSName, URI, CommonName}, i.Kind) || !isName(name) {
		return Identity{}, ErrNoName
	}
	return i, nil
}

// isName reports whether a text can be stored and shown as a name.
func isName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// OfCertificate returns the names in the client certificate of a connection, and when the certificate expires. It returns no names if
// no certificate was verified, or if the certificate has expired since the handshake.
func OfCertificate(connection *tls.ConnectionState, now time.Time) (names []Identity, until time.Time) {
	if connection == nil || len(connection.VerifiedChains) == 0 {
		return nil, time.Time{}
	}
	leaf := connection.VerifiedChains[0][0]
	if now.After(leaf.NotAfter) {
		return nil, leaf.NotAfter
	}
	add := func(kind Kind, name string) {
		if isName(name) {
			names = append(names, Identity{kind, name})
		}
	}
	for _, name := range leaf.DNSNames {
		add(DNSName, name)
	}
	for _, uri := range rawURIs(leaf) {
		add(URI, uri)
	}
	add(CommonName, leaf.Subject.CommonName)
	return names, leaf.NotAfter
}

// rawURIs returns the URIs of a certificate unparsed. Names are compared exactly, and parsing would lose differences
// between names, such as an upper-case scheme or an empty fragment.
func rawURIs(leaf *x509.Certificate) (uris []string) {
	const uriTag = 6 // of GeneralName in RFC 5280, section 4.2.1.6
	subjectAltName := asn1.ObjectIdentifier{2, 5, 29, 17}
	for _, extension := range leaf.Extensions {
		var names []asn1.RawValue
		if !extension.Id.Equal(subjectAltName) {
			continue
		}
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 {
			continue
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uriTag {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris
}
