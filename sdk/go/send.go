package agentrouter

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"time"
)

// maxResponse is how many bytes of a response are read at most: enough for some hundred thousand keys.
const maxResponse = 128 << 20

// response is a response with its whole body.
type response struct {
	status int
	header http.Header
	body   []byte
}

// send sends a request, with retries, and decodes the result. isComplete reports whether the result has its required
// fields.
func send[T any](ctx context.Context, r *request, isComplete func(*T) bool) (*T, error) {
	if r.err != nil {
		return nil, r.err
	}
	payload, err := r.payload()
	if err != nil {
		return nil, err
	}
	a, err := r.sendWithRetries(ctx, payload)
	if err != nil {
		return nil, err
	}
	if r.into != nil {
		*r.into = Response{Status: a.status, Header: a.header, RequestID: a.header.Get(requestIDHeader), body: a.body}
	}
	if a.status < 200 || a.status > 299 {
		return nil, newError(a.status, a.header, a.body)
	}
	result := new(T)
	if decode(a.body, result) != nil || !isComplete(result) {
		return nil, responseError(a.status, a.header, "the response does not follow the API")
	}
	return result, nil
}

func (r *request) payload() ([]byte, error) {
	if r.body == nil {
		return nil, nil
	}
	payload, err := json.Marshal(r.body)
	if err != nil { // its error could repeat the secret
		return nil, &ArgumentError{Field: "body", Message: "can't be encoded as JSON"}
	}
	return payload, nil
}

// sendWithRetries returns the first response that needs no retry, or the last one.
func (r *request) sendWithRetries(ctx context.Context, payload []byte) (response, error) {
	for retry := 0; ; retry++ {
		a, err := r.sendOnce(ctx, payload)
		if _, ok := errors.AsType[*CredentialError](err); ok {
			return response{}, err
		}
		last := retry >= r.maxRetries() || ctx.Err() != nil
		if last || (err == nil && !isRepeatable(a.status)) {
			return a, err
		}
		delay, ok := delayBefore(retry, a.header)
		if !ok {
			return a, err
		}
		if pauseErr := r.client.sleep(ctx, delay); pauseErr != nil {
			return response{}, &ConnectionError{Err: pauseErr, timeout: errors.Is(pauseErr, context.DeadlineExceeded)}
		}
	}
}

func (r *request) sendOnce(ctx context.Context, payload []byte) (response, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.timeout, r.client.timeout)+r.wait)
	defer cancel()
	began := time.Now()
	a, err := r.roundTrip(ctx, payload)
	r.logAttempt(ctx, a, err, time.Since(began))
	if err == nil {
		return a, nil
	}
	if _, ok := errors.AsType[*CredentialError](err); ok {
		return response{}, err
	}
	return response{}, &ConnectionError{
		Err:     err,
		timeout: errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded),
	}
}

// logAttempt logs an attempt with the path's template, which holds no id.
func (r *request) logAttempt(ctx context.Context, a response, err error, took time.Duration) {
	if r.client.log == nil {
		return
	}
	fields := []slog.Attr{slog.String("method", r.op.Method), slog.String("path", r.op.Path), slog.Duration("took", took)}
	if err != nil {
		fields = append(fields, slog.String("error", err.Error()))
	} else {
		fields = append(fields, slog.Int("status", a.status), slog.String("request_id", a.header.Get(requestIDHeader)))
	}
	r.client.log.LogAttrs(ctx, slog.LevelDebug, "agentrouter: call", fields...)
}

func (r *request) roundTrip(ctx context.Context, payload []byte) (response, error) {
	var body io.Reader
	if payload != nil {
		body = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, r.op.Method, r.url(), body)
	if err != nil {
		return response{}, err
	}
	for name, value := range r.headers {
		req.Header.Set(name, value)
	}
	key, err := r.client.apiKey(ctx)
	if err == nil && (key == "" || !isVisibleASCII(key)) {
		err = errInvalidAPIKey
	}
	if err != nil {
		return response{}, &CredentialError{Err: err}
	}
	req.Header["Authorization"] = []string{"Bearer " + key}
	req.Header["Accept"] = []string{"application/json, application/problem+json"}
	req.Header["User-Agent"] = []string{r.client.userAgent}
	if payload != nil {
		req.Header["Content-Type"] = []string{"application/json"}
	}
	if r.ifMatch != "" {
		req.Header[ifMatchHeader] = []string{r.ifMatch}
	}
	if r.idempotencyKey != "" {
		req.Header[idempotencyHeader] = []string{r.idempotencyKey}
	}
	res, err := r.client.http.Do(req)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = res.Body.Close() }() // it has been read
	text, err := readBody(res)
	if err != nil {
		return response{}, err
	}
	return response{status: res.StatusCode, header: res.Header, body: text}, nil
}

var errTooLarge = errors.New("the response is too large")

func readBody(res *http.Response) ([]byte, error) {
	var text bytes.Buffer
	if n := res.ContentLength; n > 0 && n < 1<<20 {
		text.Grow(int(n) + bytes.MinRead)
	}
	n, err := text.ReadFrom(io.LimitReader(res.Body, maxResponse+1))
	if err == nil && n > maxResponse {
		err = errTooLarge
	}
	return text.Bytes(), err
}

// sleep waits for d, or returns the context's error when it ends first.
func sleep(ctx context.Context, d time.Duration) error {
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

const (
	firstDelay    = 250 * time.Millisecond
	maxDelay      = 4 * time.Second
	maxRetryAfter = 30 * time.Second // if the service asks for a longer wait, the call fails at once
)

// isRepeatable reports whether to retry after a response with that status. All calls are safe to repeat.
func isRepeatable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

// delayBefore returns how long to wait before a retry. The first retry has the number 0. If the service does not set
// the delay, the delay is random, so that clients that failed together do not retry together. The upper bound of the
// delay doubles with each retry, up to maxDelay. If the service asks for more than maxRetryAfter, ok is false.
func delayBefore(retry int, header http.Header) (d time.Duration, ok bool) {
	if asked, given := retryAfter(header); given {
		return asked, asked <= maxRetryAfter
	}
	bound := min(maxDelay, firstDelay<<min(retry, 8))
	n, err := rand.Int(rand.Reader, big.NewInt(int64(bound)))
	if err != nil {
		return bound, true
	}
	return time.Duration(n.Int64()), true
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
