package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/internal/problem"
)

// Door stands before the operations of an API whose clients are known by their connections, and whose bodies hold
// secrets. Behind it, a body is read whole into memory that is zeroed when the request is over, and its secrets are cut
// out before anything else reads it: see CutSecret.
type Door interface {
	// Admit is asked before the body is read: may who calls use call.Operation? It fills in call.Client, and returns the
	// context that the operation gets.
	Admit(ctx context.Context, call *Call) (context.Context, error)
	// Enter is asked once the body is there. It waits for a place to work in, which leave gives back, or refuses.
	Enter(ctx context.Context) (leave func(), err error)
	// Done is told how each request ended, those included that were not admitted.
	Done(call *Call, err error)
}

// guarded has each request of an operation pass the door.
func guarded(door Door, v *validator) echo.MiddlewareFunc {
	long := new(atomic.Int64)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			call := CallFrom(c.Request().Context())
			err := ErrInternal // if it panics
			defer func() { door.Done(call, err) }()
			err = pass(door, v, long, next, c)
			return err
		}
	}
}

func pass(door Door, v *validator, long *atomic.Int64, next echo.HandlerFunc, c echo.Context) error {
	call := CallFrom(c.Request().Context())
	ctx, err := door.Admit(c.Request().Context(), call)
	if err != nil {
		return err
	}
	c.SetRequest(c.Request().WithContext(ctx))
	if v.body != nil {
		held, err := v.hold(c, long)
		if err != nil {
			return err
		}
		defer held.wipe()
		c.Request().Body, call.body = held, held
	}
	leave, err := door.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return next(c)
}

// CutSecret returns the text of a member that the document marks x-secret, in memory that is zeroed when the request is
// over; nil where the member is absent or no string. The validated value has as many letters A in its place.
func CutSecret(ctx context.Context, member string) []byte {
	if body := CallFrom(ctx).body; body != nil {
		return body.secrets[member]
	}
	return nil
}

// heldBody is a body in memory that is zeroed when the request is over.
type heldBody struct {
	io.Reader // of nothing: the validator reads text
	text      []byte
	secrets   map[string][]byte
	// long counts the bytes of room beyond firstRead of all bodies of the operation, grown those of this one.
	long  *atomic.Int64
	grown int64
}

// Close implements io.Closer.
func (*heldBody) Close() error { return nil }

const (
	// firstRead is how much of a body is made room for at first, in bytes: enough for most.
	firstRead = 4 << 10
	// maxLong bounds the room that longer bodies of an operation take beyond that. Bodies are held before there is a
	// place to work on them, so that who sends slowly keeps no place; many such must not take all of the memory either.
	maxLong = 64 << 20
)

// hold reads the whole body.
func (v *validator) hold(c echo.Context, long *atomic.Int64) (*heldBody, error) {
	if err := checkMediaType(c.Request().Header); err != nil {
		return nil, err
	}
	body := http.MaxBytesReader(c.Response(), c.Request().Body, int64(v.maxBody))
	held := &heldBody{Reader: http.NoBody, text: make([]byte, 0, firstRead), long: long}
	for {
		if len(held.text) == cap(held.text) && !held.grow(v.maxBody+1) {
			held.wipe()
			return nil, ErrBusy
		}
		n, err := body.Read(held.text[len(held.text):cap(held.text)])
		held.text = held.text[:len(held.text)+n]
		switch {
		case errors.Is(err, io.EOF):
			return held, nil
		case err != nil:
			held.wipe()
			return nil, v.unread(err)
		}
	}
}

// unread says what an error of reading the body amounts to.
func (v *validator) unread(err error) error {
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return v.tooLarge()
	}
	return problem.Invalid("body", "did not come whole")
}

// grow doubles the room, up to most bytes, and leaves nothing behind. It returns false if there is none to be had.
func (b *heldBody) grow(most int) bool {
	size := min(2*cap(b.text), most)
	more := int64(size - cap(b.text))
	if b.long.Add(more) > maxLong {
		b.long.Add(-more)
		return false
	}
	b.grown += more
	grown := make([]byte, len(b.text), size)
	copy(grown, b.text)
	clear(b.text)
	b.text = grown
	return true
}

// wipe zeroes the body, and gives its room back.
func (b *heldBody) wipe() {
	clear(b.text[:cap(b.text)])
	for _, secret := range b.secrets {
		clear(secret)
	}
	b.long.Add(-b.grown)
	b.grown = 0
}

// cut takes the texts of the named members out of the body's object. It stops at what is no JSON: who reads the rest says
// what is wrong.
func (b *heldBody) cut(members map[string]bool) {
	if len(members) == 0 {
		return
	}
	decoder := jsontext.NewDecoder(bytes.NewBuffer(b.text)) // reads in place, without a copy
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != '{' {
		return
	}
	for decoder.PeekKind() == '"' {
		token, err := decoder.ReadToken()
		if err != nil {
			return
		}
		name := token.String()
		value, err := decoder.ReadValue()
		if err != nil {
			return
		}
		if members[name] && value.Kind() == '"' {
			end := int(decoder.InputOffset())
			b.take(name, b.text[end-len(value):end])
		}
	}
}

// take keeps the text of a JSON string, and puts one of as many letters A in its place.
func (b *heldBody) take(name string, quoted []byte) {
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(quoted)), quoted)
	if err != nil {
		return
	}
	if b.secrets == nil {
		b.secrets = map[string][]byte{}
	}
	b.secrets[name] = text
	for i := range quoted {
		switch {
		case i == 0 || i == len(text)+1:
			quoted[i] = '"'
		case i <= len(text):
			quoted[i] = 'A'
		default:
			quoted[i] = ' ' // of what was an escape
		}
	}
}

// secretMembers are the members of a body that the document marks x-secret.
func secretMembers(body *openapi3.Schema) map[string]bool {
	marked := map[string]bool{}
	for name, member := range body.Properties {
		if secret, _ := member.Value.Extensions["x-secret"].(bool); secret {
			marked[name] = true
		}
	}
	return marked
}
