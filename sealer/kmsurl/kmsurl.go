// Package kmsurl opens the sealer that a URL names, among those of key management services: OpenBao and Vault, AWS KMS, Google Cloud KMS. Programs that import
// it link the clients of these services.
//
// Of our packages it imports those under sealer.
package kmsurl

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/awskms"
	"github.com/agentrouter/aikeys/sealer/gcpkms"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/vault"
)

// Forms lists the forms of the URLs, for messages.
const Forms = vault.Forms + ", " + awskms.Forms + " or " + gcpkms.Forms

// Sealer is the sealer of a key management service.
type Sealer interface {
	sealer.Sealer
	sealer.KEKLister
	sealer.BatchRewrapper
	io.Closer
}

// backend is one kind of service.
type backend struct {
	schemes []string
	check   func(url string) error
	open    func(ctx context.Context, url string, options kms.Options, log *slog.Logger) (Sealer, error)
}

func backends() []backend {
	return []backend{
		{vault.Schemes(), func(url string) error { _, err := vault.ParseURL(url); return err },
			func(_ context.Context, url string, options kms.Options, log *slog.Logger) (Sealer, error) {
				return vault.Open(url, options, log)
			}},
		{awskms.Schemes(), func(url string) error { _, err := awskms.ParseURL(url); return err },
			func(ctx context.Context, url string, options kms.Options, _ *slog.Logger) (Sealer, error) {
				return awskms.Open(ctx, url, options)
			}},
		{gcpkms.Schemes(), func(url string) error { _, err := gcpkms.ParseURL(url); return err },
			func(ctx context.Context, url string, options kms.Options, _ *slog.Logger) (Sealer, error) {
				return gcpkms.Open(ctx, url, options)
			}},
	}
}

func backendOf(url string) (backend, bool) {
	scheme, _, _ := strings.Cut(url, ":")
	for _, b := range backends() {
		for _, known := range b.schemes {
			if scheme == known {
				return b, true
			}
		}
	}
	return backend{}, false
}

// Knows reports whether a URL has the scheme of a key management service.
func Knows(url string) bool {
	_, ok := backendOf(url)
	return ok
}

var errScheme = errors.New("not the URL of a key management service")

// Check returns what is wrong with a URL. It reads no file and connects to nothing.
func Check(url string) error {
	b, ok := backendOf(url)
	if !ok {
		return errScheme
	}
	return b.check(url)
}

// Open returns the sealer. It reads files that the URL names, and connects to nothing. A nil log logs nothing.
func Open(ctx context.Context, url string, options kms.Options, log *slog.Logger) (Sealer, error) {
	b, ok := backendOf(url)
	if !ok {
		return nil, errScheme
	}
	return b.open(ctx, url, options, log)
}
