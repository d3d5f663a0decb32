package dataplane

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/secret"
)

// Request says whose key is wanted. Make one with ForCaller, ForUser or ByID. It prints without the credential.
type Request struct {
	// Credential is the caller's API key or session token, without "Bearer". With it, CustomerID and UserID are empty.
	Credential string
	CustomerID string
	// ProjectID may be empty with a Credential: then it is the session's.
	ProjectID string
	// UserID may be empty: then users' own keys do not count.
	UserID   string
	Provider string
	// KeyID asks for one key; all else is empty then.
	KeyID string
}

// ForCaller asks for the key that serves the bearer of a credential. Set ProjectID if they mean another project than
// their session's.
func ForCaller(credential, provider string) Request {
	return Request{Credential: credential, Provider: provider}
}

// ForUser asks for the key that serves a user of a project, whom you have authenticated; an empty user is nobody in
// particular.
func ForUser(customer, project, user, provider string) Request {
	return Request{CustomerID: customer, ProjectID: project, UserID: user, Provider: provider}
}

// ByID asks for one key, whatever the policy says.
func ByID(keyID string) Request { return Request{KeyID: keyID} }

// check tells whether the request is one of the three kinds. What an id looks like is for the control plane to say.
func (q Request) check() error {
	switch {
	case q.KeyID != "":
		if q != (Request{KeyID: q.KeyID}) {
			return fmt.Errorf("%w: a key's id goes alone", ErrInvalid)
		}
	case q.Provider == "":
		return fmt.Errorf("%w: a provider or a key's id is required", ErrInvalid)
	case q.Credential != "":
		if q.CustomerID != "" || q.UserID != "" {
			return fmt.Errorf("%w: a credential says itself whose it is", ErrInvalid)
		}
	case q.CustomerID == "" || q.ProjectID == "":
		return fmt.Errorf("%w: a credential, or customer and project, are required", ErrInvalid)
	}
	return nil
}

// digest names a request in the cache. It is a hash so that the cache holds no caller's credential.
type digest [sha256.Size]byte

// digest is on the hot path: it allocates nothing for an API key, nor for a session token of the usual length. There
// are two sizes of space because clearing the larger one takes as long as hashing an API key.
func (q *Request) digest() digest {
	const small = 192
	if len(q.Credential)+len(q.CustomerID)+len(q.ProjectID)+len(q.UserID)+len(q.Provider)+len(q.KeyID) <= small-6*2 {
		var space [small]byte
		return sha256.Sum256(q.encode(space[:0]))
	}
	return q.longDigest()
}

//go:noinline
func (q *Request) longDigest() digest {
	var space [4096]byte
	return sha256.Sum256(q.encode(space[:0]))
}

func (q *Request) encode(b []byte) []byte {
	b = appendField(b, q.Credential)
	b = appendField(b, q.CustomerID)
	b = appendField(b, q.ProjectID)
	b = appendField(b, q.UserID)
	b = appendField(b, q.Provider)
	return appendField(b, q.KeyID)
}

// appendField puts the length first, so that no two requests share an encoding.
func appendField(b []byte, field string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(field))), field...)
}

// body is the request as it goes over the wire.
func (q Request) body() gen.FetchRequest {
	body := gen.FetchRequest{
		CustomerID: optional(q.CustomerID), ProjectID: optional(q.ProjectID), UserID: optional(q.UserID),
		Provider: optional(q.Provider), KeyID: optional(q.KeyID),
	}
	if q.Credential != "" {
		credential := secret.New(q.Credential)
		body.Credential = &credential
	}
	return body
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// redacted returns the request with its credential blotted out, as a type that prints in the ordinary way.
func (q Request) redacted() printableRequest {
	if q.Credential != "" {
		q.Credential = secret.Text{}.String()
	}
	return printableRequest(q)
}

type printableRequest Request

// Format prints the request without its credential, whatever the verb.
func (q Request) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, q.String()) }

// String prints the request without its credential.
func (q Request) String() string { return fmt.Sprintf("%+v", q.redacted()) }

// LogValue logs the request without its credential.
func (q Request) LogValue() slog.Value { return slog.StringValue(q.String()) }

// MarshalText keeps the credential out of JSON and other encodings.
func (q Request) MarshalText() ([]byte, error) { return []byte(q.String()), nil }
