package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/agentrouter/aikeys/sealer"
)

const (
	// defaultRetryAfter is how long to wait for a busy service that sends no Retry-After.
	defaultRetryAfter = 50 * time.Millisecond
	// minAttempt is the time that must be left for a second attempt.
	minAttempt = 50 * time.Millisecond
)

// call sends a request, and repeats it once if that may help. It returns the body of a 200, at most limit bytes; the
// caller may zero it. If ctx has ended, the error wraps ctx's error.
func (s *Sealer) call(ctx context.Context, limit int, send func(context.Context) (*http.Response, error)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	end, _ := limited.Deadline()
	var busy *busyError
	answer, err := backoff.Retry(limited, func() ([]byte, error) {
		answer, err := s.attempt(limited, limit, send)
		if err != nil && !errors.Is(err, errBroken) && !errors.As(err, &busy) {
			return nil, backoff.Permanent(err)
		}
		return answer, err
	}, backoff.WithBackOff(&backoff.ZeroBackOff{}), backoff.WithMaxTries(2), backoff.WithMaxElapsedTime(max(1, time.Until(end)-minAttempt)))
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", sealer.ErrUnavailable, ctx.Err())
	case limited.Err() != nil && !errors.As(err, &busy): // a service that says it is busy has answered in time
		return nil, fmt.Errorf("%w: secrets-svc did not answer within %s", sealer.ErrUnavailable, s.timeout)
	}
	return nil, err
}

// attempt waits for a free slot and sends the request once.
func (s *Sealer) attempt(ctx context.Context, limit int, send func(context.Context) (*http.Response, error)) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	response, err := send(ctx)
	if err != nil {
		return nil, unanswered(err)
	}
	defer func() { _ = response.Body.Close() }() // the body was read or is not needed
	// After a 101 there is no body, and reading would not end with ctx.
	if response.StatusCode < http.StatusOK {
		return nil, garbled(fmt.Sprintf("status %d", response.StatusCode))
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response)
	}
	answer, err := readAtMost(response, limit)
	if err != nil {
		return nil, fmt.Errorf("%w: secrets-svc's answer broke off: %w", sealer.ErrUnavailable, err)
	}
	return answer, nil
}

// retryAfter returns how long to wait for a busy service: its Retry-After, plus up to a quarter of it at random, so
// that clients do not all come back at once.
func retryAfter(header http.Header) time.Duration {
	after := defaultRetryAfter
	if seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 16); err == nil {
		after = time.Duration(seconds) * time.Second
	}
	return after + rand.N(after/4+1) //nolint:gosec // G404: the jitter is not a secret
}
