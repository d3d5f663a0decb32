package verification

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/keytests"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// look is the longest time between two look-ups of a test that a request waits for, and lookPause is the shortest.
const (
	look      = 250 * time.Millisecond
	lookPause = 50 * time.Millisecond
)

// RecordedReason is the reason of the records of keys and secrets that were opened to test them.
const RecordedReason = "verification"

// Feed signals that something may have been committed; *feed.Feed implements it.
type Feed interface {
	Changed() <-chan struct{}
}

// Sealer seals secrets; *keysetcheck.Checker is one.
type Sealer interface {
	Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error)
}

// DataPlanes has data planes make tests. It stores a test, and waits until a data plane has answered; the replicas
// announce stored tests to the data planes. It opens no secrets. It is safe for concurrent use.
type DataPlanes struct {
	store  *models.Store
	sealer Sealer
	feed   Feed
	wait   time.Duration
	ids    models.IDs
}

// NewDataPlanes returns a DataPlanes that waits for each test for at most wait; zero means the timeout of a test.
func NewDataPlanes(store *models.Store, s Sealer, f Feed, wait time.Duration) *DataPlanes {
	if wait == 0 {
		wait = timeout
	}
	return &DataPlanes{store: store, sealer: s, feed: f, wait: wait}
}

// testSecret has a data plane test a secret that no key has yet.
func (d *DataPlanes) testSecret(ctx context.Context, caller models.Caller, p providers.Provider, secret string) Result {
	t := models.KeyTest{
		ID: d.ids.Next("", time.Now()), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: caller.UserID, TokenID: caller.TokenID,
		Provider: p.Slug,
	}
	plain := sealer.NewSecret([]byte(secret))
	defer plain.Wipe()
	sealed, err := d.sealer.Seal(ctx, SecretBinding(t, p), plain)
	if err != nil {
		return Result{Unreachable, keytests.ReasonUnknown} // the registration can't seal either, and says so
	}
	t.Envelope = sealed.Bytes
	return d.test(ctx, t)
}

// SecretBinding returns the binding of a test's envelope. With it, the envelope opens for no key and for no other test.
func SecretBinding(t models.KeyTest, p providers.Provider) sealer.Binding {
	return sealer.Binding{
		CustomerID: t.CustomerID, ProjectID: t.ProjectID, KeyID: t.ID, Provider: sealer.ProviderAt(p.Slug, p.Destination), Version: 1,
	}
}

// test stores a test, and returns a data plane's result.
func (d *DataPlanes) test(ctx context.Context, t models.KeyTest) Result {
	now := time.Now()
	if t.ID == "" {
		t.ID = d.ids.Next("", now)
	}
	t.WaitUntil = now.Add(d.wait).UnixMicro()
	err := d.store.AddKeyTest(ctx, t)
	if errors.Is(err, models.ErrNoDataPlane) {
		return Result{Unreachable, reasonNoDataPlane}
	}
	// The test is always deleted: an insert that has failed may have been committed.
	defer func() { _ = d.store.DropKeyTest(context.WithoutCancel(ctx), t.ID) }() // if this fails, others delete it
	if err != nil {
		return Result{Unreachable, keytests.ReasonUnknown}
	}
	waiting, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	for {
		changed := d.feed.Changed()
		found, err := d.store.FindKeyTest(ctx, t.ID)
		if err == nil && found.Verdict != "" {
			return Result{keytests.Outcome(found.Verdict), found.Reason}
		}
		select {
		case <-changed:
			sleep(waiting, lookPause)
		case <-time.After(look):
		case <-waiting.Done():
			if err == nil && found.ClaimedBy == "" {
				return Result{Unreachable, reasonNoDataPlane}
			}
			return Result{Unreachable, keytests.ReasonTimeout}
		}
	}
}

// sleep returns after d, or as soon as ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Judge returns the result to store for a data plane's answer to a test. claimed is when the data plane claimed the
// test. date is the Date header of the provider's answer to a signed request; it is empty for other requests.
func Judge(result Result, date string, claimed, now time.Time) Result {
	if !agreesOnTime(keytests.Answer{Result: keytests.Result(result), Date: date}, claimed, now) {
		return Result{Unreachable, reasonClock}
	}
	switch {
	case slices.Contains(reportedReasons[result.Outcome], result.Reason):
	case result.Outcome == Unreachable:
		result.Reason = keytests.ReasonUnknown
	default:
		result.Reason = ""
	}
	return result
}

// reportedReasons are the reasons that a data plane may give. All other reasons are the service's own.
var reportedReasons = map[keytests.Outcome][]string{
	Valid:    {keytests.ReasonRestricted, keytests.ReasonQuotaExhausted},
	Rejected: {keytests.ReasonLeaked},
	Unreachable: {keytests.ReasonRateLimited, keytests.ReasonBlocked, keytests.ReasonNoConnection, keytests.ReasonTimeout,
		keytests.ReasonUnknown, keytests.ReasonAnyKey},
}
