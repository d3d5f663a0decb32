package dataplane

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/keytests"
)

const (
	// offerOfKeyTests tells the control plane that this data plane tests keys.
	offerOfKeyTests = "key_tests"
	// maxKeyTests is how many tests can be in progress at a time. Further tests wait at the control plane, which
	// announces them again until a data plane claims them.
	maxKeyTests = 8
	// maxStatus is the greatest status that is reported; a greater one is reported as maxStatus.
	maxStatus = 599
	// verdictRetry is the time between two attempts to send a verdict.
	verdictRetry = 200 * time.Millisecond
)

// startKeyTest starts a test that waits at the control plane, unless maxKeyTests are in progress.
func (r *Resolver) startKeyTest(id string) {
	select {
	case r.keyTests <- id:
	default:
	}
}

// makeKeyTests runs tests, one after the other, until ctx ends.
func (r *Resolver) makeKeyTests(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-r.keyTests:
			r.makeKeyTest(ctx, id)
		}
	}
}

// makeKeyTest claims a test, runs it and sends the verdict. It does nothing if another data plane has claimed the test.
func (r *Resolver) makeKeyTest(ctx context.Context, id string) {
	claimed, ok := r.claimKeyTest(ctx, id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, milliseconds(claimed.ExpiresInMs, keytests.Timeout))
	defer cancel()
	test, err := readKeyTest(claimed)
	if err != nil {
		r.log.WarnContext(ctx, "the test of a key can't be run", slog.String("provider", claimed.Provider), slog.String("error", err.Error()))
		return
	}
	answer := keytests.Run(ctx, func(request *http.Request) (*http.Response, error) {
		return r.cfg.SendTest(claimed.Provider, claimed.BaseURL, request)
	}, test)
	if !test.Signed {
		answer.Date = ""
	}
	r.log.InfoContext(ctx, "tested a key for the control plane", slog.String("provider", claimed.Provider),
		slog.String("verdict", string(answer.Outcome)), slog.String("reason", answer.Reason))
	r.sendVerdict(context.WithoutCancel(ctx), gen.KeyTestAnswer{
		TestID: id, Verdict: gen.KeyTestAnswerVerdict(answer.Outcome), Reason: optional(answer.Reason), Status: optionalNumber(min(answer.Status, maxStatus)),
		Date: optional(answer.Date),
	})
}

// claimKeyTest claims a test. ok reports whether the claim succeeded. A claim that fails is not repeated: the control
// plane may have accepted it.
func (r *Resolver) claimKeyTest(ctx context.Context, id string) (claimed gen.KeyTest, ok bool) {
	status, body, _ := r.send(ctx, func(ctx context.Context) (*http.Response, error) {
		return r.client.ClaimKeyTest(ctx, gen.ClaimRequest{TestID: id})
	})
	defer clear(body)
	if status != http.StatusOK || json.Unmarshal(body, &claimed) != nil {
		return gen.KeyTest{}, false
	}
	return claimed, true
}

// readKeyTest returns the claimed test. The error repeats no part of the test.
func readKeyTest(claimed gen.KeyTest) (keytests.Test, error) {
	request, err := http.NewRequestWithContext(context.Background(), claimed.Method, claimed.URL, strings.NewReader(valueOf(claimed.Body)))
	if err != nil {
		return keytests.Test{}, fmt.Errorf("%w: no request", errProtocol) // err may quote the URL
	}
	test := keytests.Test{Request: request, Rules: readRules(claimed.Answers), Signed: claimed.Signed}
	request.Header = readHeaders(claimed.Headers)
	if len(claimed.MadeUpHeaders) > 0 {
		test.MadeUp = readHeaders(claimed.MadeUpHeaders)
	}
	return test, nil
}

func readHeaders(from []gen.InjectedHeader) http.Header {
	headers := http.Header{}
	for _, h := range from {
		headers.Set(h.Name, h.Value.Reveal())
	}
	return headers
}

// sendVerdict sends a verdict. If the control plane does not answer or can't accept the verdict, sendVerdict tries
// again until FetchTimeout has passed.
func (r *Resolver) sendVerdict(ctx context.Context, v gen.KeyTestAnswer) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.FetchTimeout)
	defer cancel()
	for ctx.Err() == nil {
		status, _, _ := r.send(ctx, func(ctx context.Context) (*http.Response, error) {
			return r.client.AnswerKeyTest(ctx, v)
		})
		if status := cmp.Or(status, http.StatusServiceUnavailable); status < 500 && status != http.StatusTooManyRequests {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(verdictRetry):
		}
	}
}
