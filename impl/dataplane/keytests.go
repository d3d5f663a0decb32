package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/internal/keytests"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// errNoTest says that a credential can't be tested.
var errNoTest = errors.New("no test is known")

// ClaimKeyTest gives a data plane the request that tests a key. It opens the key as a fetch does, and stores a record
// of the claim before it answers. If no data plane can make the test, it stores the result itself.
func (s *server) ClaimKeyTest(ctx context.Context, req gen.ClaimKeyTestRequestObject) (gen.ClaimKeyTestResponseObject, error) {
	dataPlaneID, now := auth.PrincipalFrom(ctx).DataPlaneID, s.Now()
	t, err := s.Store.ClaimKeyTest(ctx, dataPlaneID, req.Body.TestID, now.UnixMicro())
	if err != nil {
		return nil, err
	}
	opened, err := s.openTest(ctx, t, now)
	record := fetchRecord(ctx, now, opened.found, err)
	if err == nil {
		record.Reason = verification.RecordedReason
	}
	if t.KeyID == "" {
		record.KeyID, record.Version = "", 0 // the test's id is no key's
	}
	if opened.credential.Grant != nil {
		record.DataPlaneID = models.ControlPlane // the control plane makes the exchange
	}
	if unrecorded := s.recordFetch(ctx, record, err); unrecorded != nil {
		return nil, unrecorded
	}
	if err == nil && opened.credential.Grant == nil {
		return wireTest(opened, t, now), nil
	}
	ctx = context.WithoutCancel(ctx) // somebody else waits for the result
	result := verification.Result{Outcome: verification.Unreachable, Reason: keytests.ReasonUnknown}
	switch {
	case errors.Is(err, errNoTest):
		result, err = verification.Unsupported(), nil
	case err == nil:
		result = s.Tests.TryExchange(ctx, *opened.credential.Grant)
	}
	unanswered := s.Store.AnswerKeyTest(ctx, dataPlaneID, t.ID, string(result.Outcome), result.Reason)
	if err != nil && reasonOf(err) == reasonFailed {
		return nil, err // for the log
	}
	return nil, cmp.Or(unanswered, fmt.Errorf("%w: no data plane can make the test", models.ErrNotFound))
}

// openedTest is a test that was opened. It has no request if the credential has a Grant.
type openedTest struct {
	found      found
	credential providers.Credential
	test       keytests.Test
}

// openTest finds and unseals the secret or the key of a test. A key must still serve, as for a fetch by its id.
func (s *server) openTest(ctx context.Context, t models.KeyTest, now time.Time) (opened openedTest, err error) {
	opened.found = found{provider: t.Provider, Fetched: byID(models.Key{
		ID: t.ID, CustomerID: t.CustomerID, ProjectID: t.ProjectID, Provider: t.Provider, Version: 1, Envelope: t.Envelope,
	}, "")}
	if t.KeyID != "" {
		if opened.found, err = s.findByID(ctx, t.ClaimedBy, t.KeyID, now); err == nil && opened.found.Key.Version != t.Version {
			err = fmt.Errorf("%w: another version serves", models.ErrNotFound)
		}
	}
	opened.found.caller = models.Caller{CustomerID: t.CustomerID, ProjectID: t.ProjectID, UserID: t.UserID, TokenID: t.TokenID}
	if err != nil {
		return opened, err
	}
	key := opened.found.Key
	provider, err := s.findProvider(ctx, key)
	if err != nil {
		return opened, err
	}
	if provider.Verify == nil || provider.Destination != "" && !s.CustomProviders {
		return opened, errNoTest
	}
	opened.credential, opened.test, err = provider.OpenTest(ctx, s.Sealer, bindingOf(key, provider), key.Envelope, now)
	if errors.Is(err, providers.ErrCredential) || errors.Is(err, providers.ErrCannotSign) {
		err = errNoTest
	}
	return opened, err
}

// leastTestTime is the least time that a data plane has for a test, even if the clock of the replica that stored it is behind.
const leastTestTime = time.Second

// wireTest returns a test with the key in plain text.
func wireTest(opened openedTest, t models.KeyTest, now time.Time) gen.ClaimKeyTest200JSONResponse {
	r := opened.test.Request
	left := time.UnixMicro(t.WaitUntil).Sub(now)
	answer := gen.ClaimKeyTest200JSONResponse{
		Provider: t.Provider, BaseURL: opened.credential.BaseURL, Method: r.Method, URL: r.URL.String(), Headers: wireHeaders(r.Header),
		MadeUpHeaders: wireHeaders(opened.test.MadeUp), Answers: wireRules(opened.test.Rules), Signed: opened.test.Signed,
		ExpiresInMs: min(max(left, leastTestTime), keytests.Timeout).Milliseconds(),
	}
	if r.ContentLength > 0 {
		body, _ := io.ReadAll(r.Body) // reading a text can't fail
		answer.Body = new(string(body))
	}
	return answer
}

func wireHeaders(h http.Header) (headers []gen.InjectedHeader) {
	for name, values := range h {
		headers = append(headers, gen.InjectedHeader{Name: name, Value: gensecret.New(values[0]), Mode: "set"})
	}
	return headers
}

// AnswerKeyTest stores the result of a test that a data plane has claimed and made.
func (s *server) AnswerKeyTest(ctx context.Context, req gen.AnswerKeyTestRequestObject) (gen.AnswerKeyTestResponseObject, error) {
	t, err := s.Store.FindKeyTest(ctx, req.Body.TestID)
	if err != nil {
		return nil, err
	}
	result := verification.Judge(verification.Result{Outcome: keytests.Outcome(req.Body.Verdict), Reason: valueOf(req.Body.Reason)},
		valueOf(req.Body.Date), time.UnixMicro(t.ClaimedAt), s.Now())
	if err := s.Store.AnswerKeyTest(ctx, auth.PrincipalFrom(ctx).DataPlaneID, t.ID, string(result.Outcome), result.Reason); err != nil {
		return nil, err
	}
	return gen.AnswerKeyTest204Response{}, nil
}
