package verification

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// Why a stored key is not tested.
var (
	// ErrOff is returned if the operator allows no tests, and ErrMayNotOpen if this process may open no secrets.
	ErrOff        = errors.New("tests of keys are turned off")
	ErrMayNotOpen = errors.New("this process opens no secrets")
	// ErrStopped is returned for a key that is revoked, disabled or expired.
	ErrStopped = errors.New("key is stopped and not tested")
	// ErrTested is returned for a key that was tested a moment ago, or is being tested.
	ErrTested = errors.New("key was tested a moment ago")
	// ErrBusy is returned if the user has had too many keys tested, or the process is testing too many.
	ErrBusy = errors.New("too many tests")
)

const (
	// interval is the time between two tests of a key that users ask for. It is longer than a test.
	interval = 10 * time.Second
	// retestInterval is the time between a test of a key and the next test because its provider refuses it.
	retestInterval = 10 * time.Minute
	// maxWaiting is how many refused keys may wait for their test; further keys are not tested. retesters is how many
	// are tested at a time.
	maxWaiting = 256
	retesters  = 2
	// openTimeout bounds the opening of a secret, and each use of the database after that.
	openTimeout = 5 * time.Second
)

// KeysConfig holds what Keys needs.
type KeysConfig struct {
	Store     *models.Store
	Sealer    sealer.Sealer
	Providers *providers.Catalogue
	// Verifier makes the tests; nil makes none, for the reason in Off.
	Verifier *Verifier
	// Off is the error of every test if Verifier is nil: ErrOff or ErrMayNotOpen.
	Off error
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Keys tests stored keys, and stores the verdicts. It is safe for concurrent use.
type Keys struct {
	KeysConfig
	ids     models.IDs
	refused chan Refused

	mu       sync.Mutex
	underWay map[string]bool // the ids of keys that are being tested; guarded by mu
	waiting  map[string]bool // the ids of keys in refused; guarded by mu
}

// Refused is a key that its provider has begun to refuse.
type Refused struct {
	KeyID string
	// Event is the event of the test; its actor is the data plane that reported the refusal.
	Event models.Event
}

// NewKeys returns a Keys. Run makes the tests of refused keys.
func NewKeys(cfg KeysConfig) *Keys {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Keys{KeysConfig: cfg, refused: make(chan Refused, maxWaiting), underWay: map[string]bool{}, waiting: map[string]bool{}}
}

// Allow checks, in the transaction in which a key is opened, that it may be tested. It returns the key, and the event of its test.
type Allow func(tx *models.Tx) (models.Key, models.Event, error)

// Test tests a key for a user unless allow returns an error, and stores the verdict even if ctx ends during the test.
// No test begins after its key was revoked or disabled. Errors: the errors of allow, the errors above,
// sealer.ErrUnavailable, models.ErrUnavailable.
func (k *Keys) Test(ctx context.Context, user string, allow Allow) (models.Key, error) {
	return k.test(ctx, user, interval, allow)
}

func (k *Keys) test(ctx context.Context, user string, interval time.Duration, allow Allow) (models.Key, error) {
	var release func()
	if k.Verifier != nil {
		var admitted bool
		if release, admitted = k.Verifier.admit(user); !admitted {
			return models.Key{}, &problem.Wait{Kind: ErrBusy, Seconds: k.Verifier.users.RetryAfter()}
		}
		defer release()
	}
	key, event, err := k.begin(ctx, interval, allow)
	if err != nil {
		return key, err
	}
	defer k.leave(key.ID)
	ctx = context.WithoutCancel(ctx) // the record says that the secret was opened, so its verdict is stored
	result, err := k.open(ctx, key, event)
	if err != nil {
		return key, err
	}
	now := k.Now()
	key.Verdict, key.VerdictReason, key.VerifiedAt = string(result.Outcome), result.Reason, now.UnixMicro()
	event.ID, event.At = k.ids.Next(models.EventIDPrefix, now), now.UnixMicro()
	event.After = &models.EventState{Verdict: key.Verdict, Reason: key.VerdictReason}
	return key, k.Store.Transact(ctx, func(tx *models.Tx) error { return tx.StoreVerdict(key, event) })
}

// begin checks that a key may be tested. If this process is about to open the key, begin stores the record of that in
// the same transaction. It returns the key with its envelope. Unless begin returns an error, the caller must call leave
// for the key.
func (k *Keys) begin(ctx context.Context, interval time.Duration, allow Allow) (key models.Key, event models.Event, err error) {
	entered := ""
	err = k.Store.Transact(ctx, func(tx *models.Tx) error {
		found, forTest, err := allow(tx)
		if err != nil {
			return err
		}
		if k.Verifier == nil {
			return k.Off
		}
		if key, err = tx.KeyToOpen(found.ID); err != nil {
			return err
		}
		event = forTest
		now := k.Now() // not the transaction's time: the transaction may have waited for the key
		if key.StopReason(now.UnixMicro()) != "" {
			return ErrStopped
		}
		if since := now.Sub(time.UnixMicro(key.VerifiedAt)); since.Abs() < interval { // negative if another process's clock is ahead
			return &problem.Wait{Kind: ErrTested, Seconds: int((interval - max(0, since) + time.Second - 1) / time.Second)}
		}
		if entered == "" && !k.enter(key.ID) {
			return &problem.Wait{Kind: ErrTested, Seconds: int(interval / time.Second)}
		}
		entered = key.ID
		if !k.canTest(key.Provider) || k.Verifier.dataPlanes != nil {
			return nil // the key is not opened, or not here
		}
		return tx.RecordFetch(models.FetchRecord{
			At: now.UnixMicro(), DataPlaneID: models.ControlPlane, CustomerID: key.CustomerID, ProjectID: key.ProjectID, Provider: key.Provider,
			UserID: testedFor(event), TokenID: event.ActorTokenID, KeyID: key.ID, Version: key.Version,
			Decision: models.OutcomeAllowed, Reason: RecordedReason, RequestID: event.RequestID,
		})
	})
	if err != nil && entered != "" {
		k.leave(entered)
	}
	return key, event, err
}

// testedFor returns the user who had a key tested, or "" if a data plane's report did.
func testedFor(event models.Event) string {
	if event.Type == models.EventKeyVerified && event.ActorMethod != reportMethod {
		return event.ActorUserID
	}
	return ""
}

// reportMethod is the ActorMethod of events that a data plane's report leads to.
const reportMethod = "data_plane"

// enter notes that a key is being tested. It returns false if the key is being tested already.
func (k *Keys) enter(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.underWay[id] {
		return false
	}
	k.underWay[id] = true
	return true
}

func (k *Keys) leave(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.underWay, id)
}

// canTest reports whether a test is known for a provider.
func (k *Keys) canTest(slug string) bool {
	provider, known := k.Providers.Lookup(slug)
	return known && k.Verifier.canTest(provider) || k.Verifier.dataPlanes != nil && providers.IsCustom(slug)
}

// open unseals a key's secret, tests it and wipes it, or has a data plane test it.
func (k *Keys) open(ctx context.Context, key models.Key, event models.Event) (Result, error) {
	if !k.canTest(key.Provider) {
		return Unsupported(), nil
	}
	if k.Verifier.dataPlanes != nil {
		return k.Verifier.dataPlanes.test(ctx, models.KeyTest{
			CustomerID: key.CustomerID, ProjectID: key.ProjectID, UserID: testedFor(event), TokenID: event.ActorTokenID,
			Provider: key.Provider, KeyID: key.ID, Version: key.Version,
		}), nil
	}
	provider, _ := k.Providers.Lookup(key.Provider)
	ctx, cancel := context.WithTimeout(ctx, openTimeout+timeout)
	defer cancel()
	plain, err := k.Sealer.Open(ctx, sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: key.Provider, Version: key.Version,
	}, key.Envelope)
	if err != nil {
		return Result{}, fmt.Errorf("open a key to test it: %w", err)
	}
	defer plain.Wipe()
	return k.Verifier.test(ctx, provider, key.CustomerID, key.ID, string(plain.Reveal())), nil
}

// TryExchange tests a credential by exchanging it for a token. It is for a test that a data plane has claimed: data
// planes can't exchange credentials.
func (k *Keys) TryExchange(ctx context.Context, grant providers.Grant) Result {
	if k == nil || k.Verifier == nil {
		return Unsupported()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return k.Verifier.tryExchange(ctx, grant)
}

// Enqueue queues the test of a refused key, and does not wait for it. A key that was tested within the last ten minutes
// is not tested again. Enqueue does nothing if no test is known for the key's provider.
func (k *Keys) Enqueue(refused Refused) {
	if k == nil || k.Verifier == nil || !k.canTest(refused.Event.Provider) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting[refused.KeyID] {
		return
	}
	select {
	case k.refused <- refused:
		k.waiting[refused.KeyID] = true
	default:
		k.Log.Warn("a refused key is not tested: too many wait", slog.String("key_id", refused.KeyID))
	}
}

// Run tests refused keys until ctx ends, and returns when the tests under way have ended.
func (k *Keys) Run(ctx context.Context) error {
	var group errgroup.Group
	for range retesters {
		group.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case refused := <-k.refused:
					k.retest(ctx, refused)
				}
			}
		})
	}
	return group.Wait()
}

// retest tests a refused key.
func (k *Keys) retest(ctx context.Context, refused Refused) {
	k.mu.Lock()
	delete(k.waiting, refused.KeyID)
	k.mu.Unlock()
	_, err := k.test(ctx, "", retestInterval, func(*models.Tx) (models.Key, models.Event, error) {
		return models.Key{ID: refused.KeyID}, refused.Event, nil
	})
	for _, expected := range []error{nil, ErrTested, ErrStopped, ErrBusy, models.ErrNotFound} {
		if errors.Is(err, expected) {
			return
		}
	}
	if ctx.Err() == nil {
		k.Log.WarnContext(ctx, "a refused key is not tested", slog.String("key_id", refused.KeyID), slog.String("error", err.Error()))
	}
}
