// Package keytests tests a provider's key: it sends a request that needs a valid key, and judges the answer. The control plane and data
// planes share it. No result holds any part of a key or of an answer's body.
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

// Outcome is the outcome of a key's test.
type Outcome string

// The outcomes.
const (
	Valid       Outcome = "valid"
	Rejected    Outcome = "rejected"    // the provider said so
	Unreachable Outcome = "unreachable" // the test says nothing of the key
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

// Result is an outcome and its reason, which may be empty.
type Result struct {
	Outcome Outcome
	Reason  string
}

// Test is a request that tests a key.
type Test struct {
	// Request carries the key. A signed one expires soon.
	Request *http.Request
	// MadeUp has the headers of the same request with a key that does not exist. If the server accepts that key too,
	// its answers say nothing about keys. If MadeUp is nil, the test makes no such request.
	MadeUp http.Header
	// Rules are the provider's rules for the answer.
	Rules verdict.Rules
	// Signed says that the request is signed instead of carrying the key. If the provider rejects the request, it is
	// sent a second time: after a wrong secret for an access key id, AWS may refuse the right secret once within the
	// next seconds (according to trufflehog's detector).
	Signed bool
}

// Answer is the result of a test, with the status and the Date header of the provider's answer. If the provider did not
// answer, Status is 0 and Date is empty.
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
		r.Body, _ = r.GetBody() // can't fail, since the body is a text
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

// unanswered returns the result for a request without an answer. It drops the error, which may quote the request.
func unanswered(err error) Result {
	var timedOut net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timedOut) && timedOut.Timeout() {
		return Result{Unreachable, ReasonTimeout}
	}
	return Result{Unreachable, ReasonNoConnection}
}

// judge returns the result for an answer. An answer that no rule knows is ReasonUnknown.
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
