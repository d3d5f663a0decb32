package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/sealer"
)

// The longest answers that spec/secrets.yaml allows, in bytes.
const (
	maxEnvelopeAnswer = 180_000
	maxSecretAnswer   = 90_000
	maxKEKsAnswer     = 1 << 20
	maxProblem        = 16 << 10
)

// body is a request's body that can be zeroed. If the service answers early, net/http may still read the body after the
// call has returned, so a mutex separates reading from zeroing.
type body struct {
	mu   sync.Mutex // guards text
	text []byte     // nil once zeroed
	size int64
}

var errWiped = errors.New("the request is over")

// newSealBody encodes a SealRequest by hand: encoding/json reuses its buffers, and the secret would stay in one of them.
func newSealBody(binding sealer.Binding, secret sealer.Secret) (*body, error) {
	bound, err := json.Marshal(wireBinding(binding))
	if err != nil {
		return nil, err
	}
	const head, middle, tail = `{"binding":`, `,"secret":"`, `"}`
	size := len(head) + len(bound) + len(middle) + base64.StdEncoding.EncodedLen(secret.Len()) + len(tail)
	text := append(make([]byte, 0, size), head...) // must not grow: growing would leave a copy of the secret behind
	text = append(append(text, bound...), middle...)
	text = append(base64.StdEncoding.AppendEncode(text, secret.Reveal()), tail...)
	return &body{text: text, size: int64(len(text))}, nil
}

func (b *body) wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.text)
	b.text = nil
}

// ReadAt implements io.ReaderAt.
func (b *body) ReadAt(p []byte, offset int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.text == nil {
		return 0, errWiped
	}
	return bytes.NewReader(b.text).ReadAt(p, offset)
}

// reader returns a reader of the body from its beginning.
func (b *body) reader() io.ReadCloser { return io.NopCloser(io.NewSectionReader(b, 0, b.size)) }

// attach is a RequestEditorFn. It sets the request fields that http.NewRequest sets only for types of bodies that it
// knows.
func (b *body) attach(_ context.Context, request *http.Request) error {
	request.ContentLength = b.size
	request.GetBody = func() (io.ReadCloser, error) { return b.reader(), nil }
	return nil
}

func wireBinding(b sealer.Binding) secrets.Binding {
	return secrets.Binding{
		CustomerID: b.CustomerID, ProjectID: b.ProjectID, KeyID: b.KeyID, Provider: b.Provider, Version: int64(b.Version),
	}
}

func wireItem(b sealer.Binding, envelope []byte) secrets.OpenRequest {
	return secrets.OpenRequest{Binding: wireBinding(b), Envelope: base64.StdEncoding.EncodeToString(envelope)}
}

func parseEnvelope(answer []byte) (sealer.Envelope, error) {
	var wire secrets.Envelope
	if err := json.Unmarshal(answer, &wire); err != nil {
		return sealer.Envelope{}, garbled("an envelope that is not JSON")
	}
	return envelopeOf(wire.KekID, wire.Envelope)
}

// envelopeOf decodes an envelope and checks it: if something else were stored, the secret would be lost.
func envelopeOf(kekID, encoded string) (sealer.Envelope, error) {
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return sealer.Envelope{}, garbled("an envelope that is not base64")
	}
	if named, err := sealer.KEKIDOf(decoded); err != nil || named != kekID {
		return sealer.Envelope{}, garbled("an envelope that is malformed or names another KEK")
	}
	return sealer.Envelope{KEKID: kekID, Bytes: decoded}, nil
}

// parseSecret returns the secret in an answer. The caller zeroes the answer. Besides its result, parseSecret leaves no
// other copy of the secret behind, because encoding/json decodes base64 from the answer directly into the result.
func parseSecret(answer []byte) (sealer.Secret, error) {
	var wire struct {
		Secret []byte `json:"secret"`
	}
	err := json.Unmarshal(answer, &wire)
	if n := len(wire.Secret); err != nil || n == 0 || n > sealer.MaxSecretLen {
		clear(wire.Secret)
		return sealer.Secret{}, garbled("an invalid secret")
	}
	return sealer.NewSecret(wire.Secret), nil
}

func parseKEKs(answer []byte) ([]sealer.KEK, error) {
	var wire secrets.KEKList
	if err := json.Unmarshal(answer, &wire); err != nil {
		return nil, garbled("a list of KEKs that is not JSON")
	}
	keks := make([]sealer.KEK, len(wire.Keks))
	for i, kek := range wire.Keks {
		keks[i] = sealer.KEK{ID: kek.ID, State: sealer.KEKState(kek.State)}
	}
	if len(keks) == 0 || keks[0].State != sealer.KEKPrimary || keks[0].ID == "" || keks[0].ID != wire.Primary {
		return nil, garbled("a list of KEKs that does not begin with the primary KEK")
	}
	return keks, nil
}

// readAtMost reads an answer of at most limit bytes. It zeroes the buffers that it outgrows.
func readAtMost(response *http.Response, limit int) ([]byte, error) {
	size := min(512, limit)
	if response.ContentLength >= 0 {
		size = int(min(response.ContentLength, int64(limit)))
	}
	text := make([]byte, 0, size+1)
	for {
		n, err := response.Body.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case len(text) > limit:
			clear(text)
			return nil, garbled(fmt.Sprintf("more than %d bytes", limit))
		case errors.Is(err, io.EOF):
			return text, nil
		case err != nil:
			clear(text)
			return nil, err
		case len(text) == cap(text):
			grown := append(make([]byte, 0, 2*cap(text)), text...)
			clear(text)
			text = grown
		}
	}
}
