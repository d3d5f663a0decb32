package agentrouter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// maxAnswer bounds what is read of an answer: some hundred thousand keys.
const maxAnswer = 128 << 20

// answer is one response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send carries a call out, with its retries, and reads its result; complete tells whether that has what it must.
func send[T any](ctx context.Context, r *request, complete func(*T) bool) (*T, error) {
	if r.err != nil {
		return nil, r.err
	}
	payload, err := r.payload()
	if err != nil {
		return nil, err
	}
	a, err := r.attempts(ctx, payload)
	if err != nil {
		return nil, err
	}
	if a.status < 200 || a.status > 299 {
		return nil, newError(a.status, a.header, a.body)
	}
	result := new(T)
	if decode(a.body, result) != nil || !complete(result) {
		return nil, responseError(a.status, a.header, "the answer is not as the contract says")
	}
	return result, nil
}

func (r *request) payload() ([]byte, error) {
	if r.body == nil {
		return nil, nil
	}
	payload, err := json.Marshal(r.body)
	if err != nil { // the error could repeat what it was given
		return nil, &ArgumentError{Field: "body", Message: "can't be written as JSON"}
	}
	return payload, nil
}

// attempts sends the request until there is an answer to keep. An answer is one too when it is the last that is refused.
func (r *request) attempts(ctx context.Context, payload []byte) (answer, error) {
	for retry := 0; ; retry++ {
		a, err := r.attempt(ctx, payload)
		last := retry >= r.client.maxRetries || ctx.Err() != nil
		if last || (err == nil && !repeatable(a.status)) {
			return a, err
		}
		delay, ok := delayBefore(retry, a.header)
		if !ok {
			return a, err
		}
		if pauseErr := r.client.pause(ctx, delay); pauseErr != nil {
			return answer{}, &ConnectionError{Err: pauseErr, timeout: errors.Is(pauseErr, context.DeadlineExceeded)}
		}
	}
}

func (r *request) attempt(ctx context.Context, payload []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, r.client.timeout+r.wait)
	defer cancel()
	a, err := r.exchange(ctx, payload)
	if err == nil {
		return a, nil
	}
	return answer{}, &ConnectionError{
		Err:     err,
		timeout: errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded),
	}
}

func (r *request) exchange(ctx context.Context, payload []byte) (answer, error) {
	var body io.Reader
	if payload != nil {
		body = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, r.op.Method, r.url(), body)
	if err != nil {
		return answer{}, err
	}
	r.client.authorize(req.Header)
	req.Header["Accept"] = []string{"application/json, application/problem+json"}
	req.Header["User-Agent"] = []string{r.client.userAgent}
	if payload != nil {
		req.Header["Content-Type"] = []string{"application/json"}
	}
	if r.idempotencyKey != "" {
		req.Header[idempotencyHeader] = []string{r.idempotencyKey}
	}
	res, err := r.client.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }() // it was read; nothing more can come of it
	text, err := read(res)
	if err != nil {
		return answer{}, err
	}
	return answer{status: res.StatusCode, header: res.Header, body: text}, nil
}

var errTooLarge = errors.New("the answer is too large")

func read(res *http.Response) ([]byte, error) {
	var text bytes.Buffer
	if n := res.ContentLength; n > 0 && n < 1<<20 {
		text.Grow(int(n) + bytes.MinRead)
	}
	n, err := text.ReadFrom(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && n > maxAnswer {
		err = errTooLarge
	}
	return text.Bytes(), err
}

// pause waits, or returns the context's error as soon as there is one.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
