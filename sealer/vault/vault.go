// Package vault is the sealer backend whose key-encryption keys (KEKs) are versions of a key in the transit engine of OpenBao or
// HashiCorp Vault. The keys never leave that server, which logs each use.
//
// The id of a KEK consists of "vault:", the namespace if there is one, the mount, the key and the version:
// vault:transit/aikeys:v3. The id does not contain the server's address, so the KEK ids stay the same if the server is
// restored at another address. The newest version is primary. Versions below the key's min_decryption_version are
// retired.
//
// The package imports package sealer, sealer/kms and packages of internal.
package vault

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

const (
	// maxAnswer bounds an answer, in bytes.
	maxAnswer   = 4 << 20
	maxConns    = 64
	idleTimeout = 30 * time.Second
	// retryWait is the pause before the only retry of a call without an answer or with a 5xx.
	retryWait = 50 * time.Millisecond
	// ciphertextPrefix begins each ciphertext; "v<n>:", the version, follows. OpenBao has kept Vault's prefix.
	ciphertextPrefix = "vault:"
)

// Open returns a Sealer for the key of a URL that ParseURL accepts. It reads the files for TLS, and does not connect.
// If log is nil, nothing is logged.
func Open(text string, options kms.Options, log *slog.Logger) (*kms.Sealer, error) {
	cfg, err := ParseURL(text)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	transport, err := newTransport(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	client, err := api.NewClient(&api.Config{
		// No redirects: they would take the token and the data key to another server. A standby forwards by itself.
		Address: cfg.Address, DisableEnvironment: true, DisableRedirects: true,
		HttpClient: &http.Client{
			Transport:     limitedAnswers{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		MaxRetries: 1,
		// The client's default backoff waits for Retry-After, which may be longer than a call may take.
		Backoff: func(time.Duration, time.Duration, int, *http.Response) time.Duration { return retryWait },
	})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return kms.New(&transitKey{cfg: cfg, session: &session{cfg: cfg, client: client}, transport: transport}, options), nil
}

func newTransport(cfg Config, log *slog.Logger) (*http.Transport, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		authorities, err := tlsfiles.ReadPool(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		settings.RootCAs = authorities
	}
	if cfg.CertFile != "" {
		own, err := tlsfiles.OpenPair("client certificate for OpenBao or Vault", cfg.CertFile, cfg.KeyFile, log)
		if err != nil {
			return nil, err
		}
		settings.GetClientCertificate = tlsfiles.ClientCertificate(own)
	}
	return &http.Transport{ // without a proxy, even that of the environment: none may see a data key
		TLSClientConfig: settings, ForceAttemptHTTP2: true, DisableCompression: true, IdleConnTimeout: idleTimeout,
		MaxIdleConns: maxConns, MaxIdleConnsPerHost: maxConns,
	}, nil
}

// limitedAnswers cuts off an answer that is longer than maxAnswer; no valid answer is.
type limitedAnswers struct{ to http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l limitedAnswers) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.to.RoundTrip(request)
	if err == nil {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxAnswer), response.Body}
	}
	return response, err
}

// transitKey implements kms.Key.
type transitKey struct {
	cfg       Config
	session   *session
	transport *http.Transport
	isSafe    atomic.Bool // set after a check has found that the token can't create keys
}

// Close implements io.Closer. It closes idle connections.
func (k *transitKey) Close() error {
	k.transport.CloseIdleConnections()
	return nil
}

// kekID returns the id of a version.
func (c *Config) kekID(version int) string {
	path := c.Mount + "/" + c.Key
	if c.Namespace != "" {
		path = c.Namespace + "/" + path
	}
	return ciphertextPrefix + path + ":v" + strconv.Itoa(version)
}

// versionOf returns the version that a KEK id names. ok is false for ids of other keys.
func (c *Config) versionOf(kekID string) (version int, ok bool) {
	version, err := strconv.Atoi(kekID[strings.LastIndexByte(kekID, 'v')+1:])
	return version, err == nil && version > 0 && c.kekID(version) == kekID
}

// Owns implements kms.Key.
func (k *transitKey) Owns(kekID string) bool {
	_, ok := k.cfg.versionOf(kekID)
	return ok
}

// Wrap implements kms.Key.
func (k *transitKey) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	version, _ := k.cfg.versionOf(kekID)
	answer, err := k.call(ctx, "encrypt", map[string]any{
		"plaintext": dataKey, "associated_data": associatedData, "key_version": version, // JSON has bytes in base64
	})
	if err != nil {
		return nil, err
	}
	text, _ := answer["ciphertext"].(string)
	return decode(text, prefixOf(version))
}

// Unwrap implements kms.Key. The KEK id, which the associated data authenticates, names the version.
func (k *transitKey) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	version, _ := k.cfg.versionOf(kekID)
	answer, err := k.call(ctx, "decrypt", map[string]any{
		"ciphertext": prefixOf(version) + base64.StdEncoding.EncodeToString(wrapped), "associated_data": associatedData,
	})
	if err != nil {
		return nil, err
	}
	text, _ := answer["plaintext"].(string)
	return decode(text, "")
}

// prefixOf returns the prefix of a version's ciphertexts. Envelopes leave it out.
func prefixOf(version int) string { return fmt.Sprintf("%sv%d:", ciphertextPrefix, version) }

// decode decodes a text of the server: a prefix, then base64.
func decode(text, prefix string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, prefix)
	decoded, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: a text of another form or version", errGarbled)
	}
	return decoded, nil
}

// call sends an operation on the key, and repeats it once if the token had to be replaced.
func (k *transitKey) call(ctx context.Context, operation string, data map[string]any) (map[string]any, error) {
	path := k.cfg.Mount + "/" + operation + "/" + k.cfg.Key
	return k.withToken(ctx, func(client *api.Client) (*api.Secret, error) {
		return client.Logical().WriteWithContext(ctx, path, data)
	}, func(err error) error { return k.classify(operation, err) })
}

func (k *transitKey) withToken(
	ctx context.Context, send func(*api.Client) (*api.Secret, error), classify func(error) error,
) (map[string]any, error) {
	for again := true; ; again = false {
		client, token, err := k.session.open(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := send(client)
		switch {
		case err == nil && (answer == nil || answer.Data == nil):
			return nil, fmt.Errorf("%w: an answer without data", errGarbled)
		case err == nil:
			return answer.Data, nil
		case again && statusOf(err) == http.StatusForbidden && k.session.forget(token):
			continue // the token may have expired
		}
		return nil, classify(err)
	}
}

// KEKs implements kms.Key. It checks that the key can be used as KEK.
func (k *transitKey) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	path := k.cfg.Mount + "/keys/" + k.cfg.Key
	data, err := k.withToken(ctx, func(client *api.Client) (*api.Secret, error) {
		answer, err := client.Logical().ReadWithContext(ctx, path)
		if err == nil && answer == nil { // the client returns neither for a plain 404
			err = &api.ResponseError{StatusCode: http.StatusNotFound}
		}
		return answer, err
	}, func(err error) error { return k.classify("read", err) })
	if err != nil {
		return nil, err
	}
	if err := k.checkType(data); err != nil {
		return nil, err
	}
	if err := k.checkPolicy(ctx); err != nil {
		return nil, err
	}
	return k.versions(data)
}

// checkType refuses keys of types that can't serve as KEK.
func (k *transitKey) checkType(data map[string]any) error {
	withAEAD := []string{"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305"}
	kind, _ := data["type"].(string)
	derived, _ := data["derived"].(bool)
	deleted, _ := data["soft_deleted"].(bool)
	switch {
	case !slices.Contains(withAEAD, kind):
		return k.refuse("the key %s is of type %q, which does not authenticate associated data; make one of type aes256-gcm96", k.cfg.Key, kind)
	case derived:
		return k.refuse("the key %s is a derived key, which needs a context for each call; make one without derived", k.cfg.Key)
	case deleted:
		return k.refuse("the key %s is marked as deleted; restore it", k.cfg.Key)
	}
	return nil
}

// checkPolicy refuses a token that may create keys: with a mistyped name, the first encryption would create a key that
// nobody backs up. After the first success, it does not ask again.
func (k *transitKey) checkPolicy(ctx context.Context) error {
	if k.isSafe.Load() {
		return nil
	}
	encrypt := k.cfg.Mount + "/encrypt/" + k.cfg.Key
	data, err := k.withToken(ctx, func(client *api.Client) (*api.Secret, error) {
		return client.Logical().WriteWithContext(ctx, "sys/capabilities-self", map[string]any{"paths": []string{encrypt}})
	}, func(err error) error {
		if statusOf(err) == http.StatusForbidden {
			return k.refuse("the token may not ask for its own rights; let its policy update sys/capabilities-self")
		}
		return k.classify("read", err)
	})
	if err != nil {
		return err
	}
	capabilities, _ := data[encrypt].([]any)
	for _, capability := range capabilities {
		if capability == "create" || capability == "root" {
			return k.refuse("the token has the capability %s on %s, so that a mistyped name would make a new key; leave only update in its policy",
				capability, encrypt)
		}
	}
	k.isSafe.Store(true)
	return nil
}

// versions returns the key's versions, the newest first.
func (k *transitKey) versions(data map[string]any) ([]sealer.KEK, error) {
	latest, oldest := number(data["latest_version"]), number(data["min_decryption_version"])
	listed, _ := data["keys"].(map[string]any)
	if latest < 1 {
		return nil, fmt.Errorf("%w: a key without a version", errGarbled)
	}
	keks := []sealer.KEK{{ID: k.cfg.kekID(latest), State: sealer.KEKPrimary}}
	for version := latest - 1; version >= 1; version-- {
		// Transit does not list versions below min_decryption_version. It keeps them, unless they were trimmed.
		state := sealer.KEKEnabled
		if _, isListed := listed[strconv.Itoa(version)]; !isListed || version < oldest {
			state = sealer.KEKRetired
		}
		keks = append(keks, sealer.KEK{ID: k.cfg.kekID(version), State: state})
	}
	return keks, nil
}

// number returns the number of a version, or 0 if value is not one.
func number(value any) int {
	n, err := strconv.Atoi(fmt.Sprint(value))
	if err != nil || n > 1<<30 {
		return 0
	}
	return n
}
