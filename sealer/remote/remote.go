// Package remote is the client of secrets-svc (spec/secrets.yaml): the sealer backend whose key-encryption keys (KEKs)
// are in another process. An attacker who takes over a process that uses this package can have envelopes opened, one
// logged call at a time, for as long as they control the process. They can't take a KEK away.
//
// A call is one request over a kept-alive connection. It ends with its context or after the configured timeout,
// whichever comes first; this time includes the wait for one of the bounded number of connections. No operation changes
// anything in the service, so a request may be repeated. It is repeated once if its connection breaks, or if the
// service is busy and its Retry-After leaves enough time. Any other failure on the way is sealer.ErrUnavailable: the
// envelope's state is unknown, and a later call may work. The package connects on the first call, and recovers on its
// own when the service comes back.
//
// The package zeroes its own copies of a secret, the bodies of requests and answers, as soon as they are no longer needed. It
// can't zero the buffers of net/http and TLS, about 4 KiB per connection, where a secret stays until it is overwritten.
//
// The package imports package sealer, gen/secrets and internal/tlsfiles, and no other package of ours.
package remote

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/sealer"
)

const (
	defaultTimeout = 2 * time.Second
	// maxConns bounds concurrent requests, each on its own connection; others wait.
	maxConns = 64
)

// Config says where secrets-svc is. Either Socket or URL is required.
type Config struct {
	// Socket is the path of its unix socket. The service identifies its client by the user of this process.
	Socket string
	// URL is https://host:port, for mutual TLS. It requires the three files below, which are read again when they change.
	URL string
	// CertFile and KeyFile are this client's certificate and its private key. CAFile has the certificates of the
	// authorities that may issue the service's certificate. All are in PEM.
	CertFile, KeyFile, CAFile string
	// Timeout is the longest that a call may take; 0 means 2 s.
	Timeout time.Duration
	// Log gets a line when changed files can't be used; nil logs nothing.
	Log *slog.Logger
}

// Sealer is a sealer.Sealer and a sealer.BatchRewrapper.
type Sealer struct {
	client    *secrets.Client
	transport *http.Transport
	timeout   time.Duration
	slots     chan struct{}
	primary   primary
}

var (
	_ sealer.Sealer         = (*Sealer)(nil)
	_ sealer.BatchRewrapper = (*Sealer)(nil)
)

// New returns a Sealer that has not connected yet. Its error says what is wrong with the configuration and names the files.
func New(cfg Config) (*Sealer, error) {
	transport, server, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	s := &Sealer{
		transport: transport, timeout: cmp.Or(cfg.Timeout, defaultTimeout),
		slots: make(chan struct{}, maxConns), primary: primary{asked: make(chan struct{}, 1)},
	}
	s.client, err = secrets.NewClient(server, secrets.WithHTTPClient(doer{transport}))
	return s, err
}

// Close closes idle connections. The Sealer can still be used, and then has to be closed again.
func (s *Sealer) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Seal implements sealer.Sealer. The parts of a binding must be UTF-8, because the binding is sent as JSON.
func (s *Sealer) Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (envelope sealer.Envelope, err error) {
	defer wrap(&err, "seal")
	if err := checkBinding(binding); err != nil {
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
	if envelope, err = parseEnvelope(answer); err == nil {
		s.primary.noteSealedWith(envelope.KEKID)
	}
	return envelope, err
}

// Open implements sealer.Sealer. The service's audit log records each successful call.
func (s *Sealer) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (secret sealer.Secret, err error) {
	defer wrap(&err, "open")
	if err := checkBinding(binding); err != nil {
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

// wrap adds the name of an operation to its error, if there is one.
func wrap(err *error, operation string) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", operation, *err)
	}
}

// Rewrap implements sealer.Sealer.
func (s *Sealer) Rewrap(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Envelope, error) {
	results, err := s.RewrapAll(ctx, []sealer.Item{{Binding: binding, Envelope: envelope}})
	if err != nil {
		return sealer.Envelope{}, err
	}
	return results[0].Envelope, results[0].Err
}

// KEKs implements sealer.Sealer. It asks the service on each call.
func (s *Sealer) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	answer, err := s.call(ctx, maxKEKsAnswer, func(ctx context.Context) (*http.Response, error) {
		return s.client.ListKEKs(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("list KEKs: %w", err)
	}
	return parseKEKs(answer)
}

// checkBinding refuses a binding that the service would refuse or that JSON would alter. JSON encodes all bytes that
// are not UTF-8 as the same character, so two bindings could become equal.
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
