// Package fingerprint makes keyed fingerprints of secrets, by which equal ones are found without opening any. Without the key, a
// fingerprint says nothing about its secret, and no guess can be tested against it; under the keys of two customers, the fingerprints of
// one secret differ.
//
// The package imports none of our others.
package fingerprint

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"
)

// Key is what the customers' keys are derived from. It does not print.
type Key struct{ root string }

// String implements fmt.Stringer.
func (Key) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Key) GoString() string { return "[redacted]" }

// NewKey derives a Key from random bytes, of which it keeps none.
func NewKey(random []byte) (Key, error) {
	root, err := hkdf.Extract(sha256.New, random, []byte("aikeys/v1/fingerprints"))
	if err != nil {
		return Key{}, fmt.Errorf("derive the key of fingerprints: %w", err)
	}
	return Key{string(root)}, nil
}

// Of returns the fingerprints of a customer's secrets, in their order. White space does not count, nor a line end that is written as a
// backslash and a letter: a private key is the same key however its lines are broken.
func (k Key) Of(customerID string, secrets ...string) ([][]byte, error) {
	key, err := hkdf.Expand(sha256.New, []byte(k.root), "customer:"+customerID, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of fingerprints: %w", err)
	}
	found := make([][]byte, len(secrets))
	for i, secret := range secrets {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(canonical(secret)))
		found[i] = mac.Sum(nil)
	}
	return found, nil
}

var lineEnds = strings.NewReplacer(`\r`, "", `\n`, "")

func canonical(secret string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, lineEnds.Replace(secret))
}
