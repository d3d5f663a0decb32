// Package kmsurl opens the sealer of a URL. The URL names a key in a key management service: OpenBao or Vault, AWS KMS,
// or Google Cloud KMS. Programs that import it link the clients of these services.
//
// It imports only the packages under sealer.
package kmsurl

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/agentrouter/aikeys/sealer/awskms"
	"github.com/agentrouter/aikeys/sealer/gcpkms"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/vault"
)

// Forms lists the forms of the URLs, for messages.
const Forms = vault.Forms + ", " + awskms.Forms + " or " + gcpkms.Forms

var errScheme = errors.New("not the URL of a key management service")

func schemeOf(url string) string {
	scheme, _, _ := strings.Cut(url, ":")
	return scheme
}

// Knows reports whether a URL has the scheme of a key management service.
func Knows(url string) bool { return !errors.Is(Check(url), errScheme) }

// Check returns an error if a URL is invalid. It reads no file and does not connect.
func Check(url string) (err error) {
	switch schemeOf(url) {
	case vault.SchemeTLS, vault.SchemePlain:
		_, err = vault.ParseURL(url)
	case awskms.Scheme:
		_, err = awskms.ParseURL(url)
	case gcpkms.Scheme:
		_, err = gcpkms.ParseURL(url)
	default:
		err = errScheme
	}
	return err
}

// Open returns the sealer. It reads the files that the URL names, and does not connect. A nil log discards.
func Open(ctx context.Context, url string, options kms.Options, log *slog.Logger) (*kms.Sealer, error) {
	switch schemeOf(url) {
	case vault.SchemeTLS, vault.SchemePlain:
		return vault.Open(url, options, log)
	case awskms.Scheme:
		return awskms.Open(ctx, url, options)
	case gcpkms.Scheme:
		return gcpkms.Open(ctx, url, options)
	}
	return nil, errScheme
}
