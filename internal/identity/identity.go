// Package identity tells who is at the other end of a connection: the user of a process on this machine, or a name in a
// client certificate. It has the one rule by which all listeners read certificates. It imports nothing of ours.
package identity

import (
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Identity is one way to tell who is at the other end.
type Identity struct {
	Kind Kind
	Name string
}

// Kind says what an Identity's name is.
type Kind string

// The kinds. Each is also how operators write it: dns:aikeysd.internal.
const (
	UID        Kind = "uid" // the number of a user of this machine
	DNSName    Kind = "dns" // subject alternative names of a certificate
	URI        Kind = "uri"
	CommonName Kind = "cn" // of the certificate's subject
)

// String returns the identity as operators write it.
func (i Identity) String() string { return string(i.Kind) + ":" + i.Name }

// ErrNoName says that a text names nobody's certificate.
var ErrNoName = errors.New("must be dns:<name>, uri:<name> or cn:<name>")

// ParseCertificate reads a name that certificates may have, as String writes it. It compares exactly: there are no
// wildcards. Its error is ErrNoName.
func ParseCertificate(text string) (Identity, error) {
	kind, name, _ := strings.Cut(text, ":")
	i := Identity{Kind(kind), name}
	if !slices.Contains([]Kind{DNSName, URI, CommonName}, i.Kind) || !isName(name) {
		return Identity{}, ErrNoName
	}
	return i, nil
}

// isName leaves out what could not be stored or shown.
func isName(name string) bool {
	return name != "" && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// OfCertificate returns the names in the client certificate of a connection, and until when it is good: no names where there
// is no certificate that was verified, or it has expired since the connection was made.
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
	for _, uri := range leaf.URIs {
		add(URI, uri.String())
	}
	add(CommonName, leaf.Subject.CommonName)
	return names, leaf.NotAfter
}
