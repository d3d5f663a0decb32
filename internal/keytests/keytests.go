// Package keytests tests a provider's key: it sends a request that only a good key may make, and judges the answer. The control plane
// and data planes share it. No result holds any part of a key or of an answer's body.
package keytests

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/agentrouter/aikeys/internal/verdict"
)

// Timeout bounds a test.
const Timeout = 8 * time.Second

// maxBody is how much of an answer is read.
const maxBody = 64 << 10

// Outcome is what a test says of a key.
type Outcome string

// The outcomes.
const (
	Valid       Outcome = "valid"
	Rejected    Outcome = "rejected"    // the provider said so
	Unreachable Outcome = "unreachable" // nothing is known
)

// The reasons of outcomes, as the API's document describes them.
const (
	ReasonRestricted     = "restricted"
	ReasonQuotaExhausted = "quota_exhausted"
	ReasonLeaked         = "leaked"
	ReasonRateLimited    = "rate_limited"
	ReasonBlocked        = "blocked"
	ReasonNoConnection   = "no_connection"
	ReasonTimeout        = "timeout"
	ReasonUnknown        = "unknown_answer"
	ReasonAnyKey         = "any_key"
)

// Result is an outcome and its reason, which is empty if the outcome says all.
type Result struct {
	Outcome Outcome
	Reason  string
}

// Test is a request that tests a key.
type Test struct {
	// Request carries the key. It is to be sent at once, since it may be signed.
	Request *http.Request
	// MadeUp has the headers of the same request with a key that does not exist; nil sends none. A server that accepts that key, too, says
	// nothing of the other.
	MadeUp http.Header
	// Rules are the provider's for the answer.
	Rules verdict.Rules
	// Signed is whether the request is signed rather than carries the key. If it is rejected, it is sent a second time: for some seconds
	// after a wrong secret for the same access key id, AWS may refuse the right one, once (trufflehog's detector).
	Signed bool
}

// Answer is the result of a test, with the status and the Date header of the answer that it follows from: zero and empty without one.
type Answer struct {
	Result
	Status int
	Date   string
}

// Run makes a test with send, which must follow no redirects.
func Run(ctx context.Context, send func(*http.Request) (*http.Response, error), t Test) Answer {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	answer := t.ask(ctx, send, t.Request.Header)
	if t.Signed && answer.Outcome == Rejected {
		answer = t.ask(ctx, send, t.Request.Header)
	}
	if t.MadeUp == nil || answer.Outcome != Valid {
		return answer
	}
	madeUp := t.ask(ctx, send, t.MadeUp)
	switch {
	case madeUp.Outcome == Rejected || madeUp.Status == http.StatusForbidden:
		return answer
	case madeUp.Outcome == Valid:
		madeUp.Result = Result{Unreachable, ReasonAnyKey}
	}
	return madeUp
}

// ask sends the request with headers, and judges the answer.
func (t Test) ask(ctx context.Context, send func(*http.Request) (*http.Response, error), header http.Header) Answer {
	r := t.Request.Clone(ctx)
	r.Header = header.Clone()
	r.Close = t.Signed // AWS repeats its refusal on the same connection
	if r.GetBody != nil {
		r.Body, _ = r.GetBody() // of a text: it can't fail
	}
	res, err := send(r)
	if err != nil {
		return Answer{Result: unanswered(err)}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return Answer{Result: unanswered(err)}
	}
	return Answer{judge(t.Rules, res.StatusCode, body), res.StatusCode, res.Header.Get("Date")}
}

// unanswered returns the result for a request that got no answer. The error may quote the request, so nothing of it is kept.
func unanswered(err error) Result {
	var timedOut net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timedOut) && timedOut.Timeout() {
		return Result{Unreachable, ReasonTimeout}
	}
	return Result{Unreachable, ReasonNoConnection}
}

// judge returns the result for an answer. What is not known to mean that the key is good or bad means neither.
func judge(rules verdict.Rules, status int, body []byte) Result {
	judged, ruled := rules.Match(status, body)
	if !ruled {
		switch {
		case status == http.StatusOK:
			judged = verdict.Accepted
		case status == http.StatusUnauthorized:
			judged = verdict.Rejected
		case status == http.StatusPaymentRequired:
			judged = verdict.QuotaExhausted
		case status == http.StatusTooManyRequests:
			judged = verdict.RateLimited
		}
	}
	switch judged {
	case verdict.Accepted:
		return Result{Valid, ""}
	case verdict.Restricted:
		return Result{Valid, ReasonRestricted}
	case verdict.QuotaExhausted:
		return Result{Valid, ReasonQuotaExhausted}
	case verdict.Rejected:
		return Result{Rejected, ""}
	case verdict.Leaked:
		return Result{Rejected, ReasonLeaked}
	case verdict.RateLimited:
		return Result{Unreachable, ReasonRateLimited}
	case verdict.Unrelated:
		return Result{Unreachable, ReasonBlocked}
	case verdict.Forbidden, verdict.Unknown:
	}
	return Result{Unreachable, ReasonUnknown}
}
