package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/agentrouter/aikeys/sealer"
)

const (
	// soon is how long to wait before a busy service is asked again that does not say when.
	soon = 50 * time.Millisecond
	// leastAttempt is the time that a second attempt must be left with to be worth it.
	leastAttempt = 50 * time.Millisecond
)

// send sends a request once.
type send func(ctx context.Context) (*http.Response, error)

// call returns the body of a 200, at most limit bytes that the caller may zero. An error of ctx is among its errors if
// that is why.
func (s *Sealer) call(ctx context.Context, limit int, send send) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	answer, err := s.attempt(limited, limit, send)
	var busy *busyError
	if errors.Is(err, errBroken) && limited.Err() == nil || errors.As(err, &busy) && pause(limited, busy.after) {
		busy = nil
		answer, err = s.attempt(limited, limit, send)
	}
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", sealer.ErrUnavailable, ctx.Err())
	case limited.Err() != nil && !errors.As(err, &busy): // it had answered in time
		return nil, fmt.Errorf("%w: secrets-svc did not answer within %s", sealer.ErrUnavailable, s.timeout)
	}
	return nil, err
}

// attempt waits for its turn and sends the request.
func (s *Sealer) attempt(ctx context.Context, limit int, send send) ([]byte, error) {
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
	defer func() { _ = response.Body.Close() }() // it was read, or is of no use
	// What follows a 101 is no body, and its reading would not end with ctx.
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

// pause waits until a busy service may be asked again, somewhat longer so that not all come back at once. It returns
// false, at once, if the time that ctx leaves is too short for that.
func pause(ctx context.Context, after time.Duration) bool {
	after += rand.N(after/4 + 1) //nolint:gosec // G404: nobody gains anything from knowing it
	if end, ok := ctx.Deadline(); ok && time.Until(end) < after+leastAttempt {
		return false
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// retryAfter is what a busy service asks for.
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 16)
	if err != nil {
		return soon
	}
	return time.Duration(seconds) * time.Second
}
