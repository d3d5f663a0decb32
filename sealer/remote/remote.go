// Package remote is the sealer backend whose key-encryption keys (KEKs) are in another process, secrets-svc: the client
// of spec/secrets.yaml. Whoever takes over the process that uses it can have envelopes opened while they hold it, one
// logged call at a time, and takes no KEK away.
//
// A call is one request over a connection that is kept. It ends with its context or after the configured timeout,
// whichever is sooner, waiting for one of the bounded number of connections included. No operation changes anything in
// the service, so each is sent once more when its connection breaks, as one that had been kept may, or when the service
// is busy and its Retry-After leaves the time for it. Whatever else goes wrong on the way is sealer.ErrUnavailable:
// nothing is known of the envelope then, and a later call may work. Nothing is dialled before the first call, and
// nothing has to be done for a service that comes back.
//
// The package zeroes its own copies of a secret as soon as it is done with them: the body of a request and that of an
// answer. What it can't reach are the buffers of package net/http and of TLS, 4 KiB or so for each connection, where a
// secret stays until other bytes take its place.
//
// Imports package sealer and gen/secrets and none other of ours.
package remote

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/sealer"
)

// What a Config that leaves it open gets.
const (
	defaultTimeout  = 2 * time.Second
	defaultMaxConns = 64
)

// Config says where secrets-svc is. Either Socket or URL is required.
type Config struct {
	// Socket is the path of its unix socket. Who calls is told by the user of this process.
	Socket string
	// URL is https://host:port, for mutual TLS. It takes the three files below, which are read again when they change.
	URL string
	// CertFile and KeyFile are the certificate that says who calls and its private key, CAFile the certificates of the
	// authorities that may have signed the service's; all in PEM.
	CertFile, KeyFile, CAFile string
	// Timeout is the longest that a call may take; 0 is 2 s.
	Timeout time.Duration
	// MaxConns is how many requests are sent at once, each on a connection of its own; more wait. 0 is 64.
	MaxConns int
	// Log gets a line when changed files can't be used; nil gets none.
	Log *slog.Logger
}

// Sealer is a sealer.Sealer, a sealer.KEKLister and a sealer.BatchRewrapper.
type Sealer struct {
	client    *secrets.Client
	transport *http.Transport
	timeout   time.Duration
	slots     chan struct{}
	primary   primary
}

var (
	_ sealer.Sealer         = (*Sealer)(nil)
	_ sealer.KEKLister      = (*Sealer)(nil)
	_ sealer.BatchRewrapper = (*Sealer)(nil)
)

// New returns a Sealer that has not connected yet. Its error says what is wrong with the configuration, and names files.
func New(cfg Config) (*Sealer, error) {
	transport, server, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	s := &Sealer{
		transport: transport, timeout: or(cfg.Timeout, defaultTimeout),
		slots: make(chan struct{}, or(cfg.MaxConns, defaultMaxConns)), primary: newPrimary(),
	}
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = cap(s.slots), cap(s.slots)
	s.client, err = secrets.NewClient(server, secrets.WithHTTPClient(doer{transport}))
	return s, err
}

func or[T int | time.Duration](given, otherwise T) T {
	if given > 0 {
		return given
	}
	return otherwise
}

// Close closes the connections that no call is using. The Sealer can be used again, and then has to be closed again.
func (s *Sealer) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Seal implements sealer.Sealer. The parts of a binding must be UTF-8: it travels as JSON.
func (s *Sealer) Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	envelope, err := s.seal(ctx, binding, secret)
	if err != nil {
		return sealer.Envelope{}, fmt.Errorf("seal: %w", err)
	}
	s.primary.saw(envelope.KEKID)
	return envelope, nil
}

func (s *Sealer) seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	if err := begin(ctx, binding); err != nil {
		return sealer.Envelope{}, err
	}
	if n := secret.Len(); n == 0 || n > sealer.MaxSecretLen {
		return sealer.Envelope{}, fmt.Errorf("%w: it has %d bytes, want 1 to %d", sealer.ErrInvalidSecret, n, sealer.MaxSecretLen)
	}
	body, err := newSealBody(binding, secret)
	if err != nil {
		return sealer.Envelope{}, err
	}
	defer body.wipe()
	answer, err := s.call(ctx, maxEnvelopeAnswer, func(ctx context.Context) (*http.Response, error) {
		return s.client.SealSecretWithBody(ctx, "application/json", body.reader(), body.attach)
	})
	if err != nil {
		return sealer.Envelope{}, err
	}
	return parseEnvelope(answer)
}

// Open implements sealer.Sealer. Each call that succeeds is in the service's audit log.
func (s *Sealer) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	secret, err := s.open(ctx, binding, envelope)
	if err != nil {
		return sealer.Secret{}, fmt.Errorf("open: %w", err)
	}
	return secret, nil
}

func (s *Sealer) open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	if err := begin(ctx, binding); err != nil {
		return sealer.Secret{}, err
	}
	if _, err := sealer.KEKIDOf(envelope); err != nil {
		return sealer.Secret{}, err
	}
	answer, err := s.call(ctx, maxSecretAnswer, func(ctx context.Context) (*http.Response, error) {
		return s.client.OpenEnvelope(ctx, wireItem(binding, envelope))
	})
	if err != nil {
		return sealer.Secret{}, err
	}
	defer clear(answer)
	return parseSecret(answer)
}

// Rewrap implements sealer.Sealer.
func (s *Sealer) Rewrap(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Envelope, error) {
	results, err := s.RewrapAll(ctx, []sealer.Item{{Binding: binding, Envelope: envelope}})
	if err != nil {
		return sealer.Envelope{}, err
	}
	return results[0].Envelope, results[0].Err
}

// KEKs implements sealer.KEKLister. It always asks.
func (s *Sealer) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	answer, err := s.call(ctx, maxKEKsAnswer, func(ctx context.Context) (*http.Response, error) {
		return s.client.ListKEKs(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("list KEKs: %w", err)
	}
	return parseKEKs(answer)
}

// begin does what Seal, Open and Rewrap do first: it gives up if ctx is done, and checks the binding.
func begin(ctx context.Context, binding sealer.Binding) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return checkBinding(binding)
}

// checkBinding refuses what the service would, and what JSON would change on the way: bytes that are no UTF-8 all become
// the same replacement, so two bindings would be one.
func checkBinding(binding sealer.Binding) error {
	if _, err := binding.AssociatedData(); err != nil {
		return err
	}
	for _, part := range []string{binding.CustomerID, binding.ProjectID, binding.KeyID, binding.Provider} {
		if !utf8.ValidString(part) {
			return fmt.Errorf("%w: a part is not UTF-8", sealer.ErrInvalidBinding)
		}
	}
	return nil
}
