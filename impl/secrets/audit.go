package secrets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/sealer"
)

// Audit writes a line of JSON for each open that reaches the namespace's keys, for each open that is refused because
// the client lacks the permission, and for each change of the keys themselves. A line holds ids and fixed words, never
// a secret. Repeated refusals of one client share one line per minute, which says how many there were, so that the
// client can't fill the disk.
type Audit struct {
	lines slog.Handler

	mu       sync.Mutex
	refusals map[string]*refusals // :: client and peer → their refusals since the last line about them
}

// refusals counts the refused opens of one client in the minute after a line about them.
type refusals struct {
	client  []slog.Attr
	count   int
	firstAt time.Time
	end     *time.Timer
}

// refusalInterval is the time between two lines about the refusals of one client.
const refusalInterval = time.Minute

// NewAudit returns an Audit that writes each line with one Write. If Write fails, the open is refused.
func NewAudit(to io.Writer) *Audit {
	return &Audit{lines: slog.NewJSONHandler(to, nil), refusals: map[string]*refusals{}}
}

// Close writes the outstanding lines about counted refusals.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for key, r := range a.refusals {
		r.end.Stop()
		delete(a.refusals, key)
		errs = append(errs, a.writeCounted(r))
	}
	return errors.Join(errs...)
}

// The outcomes other than slugs of problems.
const (
	outcomeOpened = "opened"
	outcomeFailed = "failed"
)

// opened records an open that was attempted.
func (a *Audit) opened(ctx context.Context, requestID string, client Client, item sealer.Item, outcome string) error {
	kekID, _ := sealer.KEKIDOf(item.Envelope) // empty if the bytes are not an envelope
	b := item.Binding
	return a.write(ctx, "open",
		slog.String("client", client.Name), slog.String("namespace", client.Namespace),
		slog.String("customer_id", b.CustomerID), slog.String("project_id", b.ProjectID), slog.String("key_id", b.KeyID),
		slog.String("provider", b.Provider), slog.Uint64("version", uint64(b.Version)), slog.String("kek_id", kekID),
		slog.String("outcome", outcome), slog.String("request_id", requestID))
}

// refused records an open that was refused, before its body was read, because the client lacks the permission. It
// writes a line about the first refusal at once. It counts the refusals of the next minute, and a single line reports
// them.
func (a *Audit) refused(ctx context.Context, client Client, identities []identity.Identity, requestID string) error {
	names := make([]string, len(identities))
	for i, identity := range identities {
		names[i] = identity.String()
	}
	key := strings.Join(slices.Concat(names, []string{client.Namespace, client.Name}), "\x00")
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.refusals[key]; r != nil {
		if r.count++; r.count == 1 {
			r.firstAt = time.Now()
		}
		return nil
	}
	r := &refusals{client: []slog.Attr{
		slog.String("client", client.Name), slog.String("namespace", client.Namespace), slog.Any("peer", names),
		slog.String("outcome", "client-not-allowed"),
	}}
	if err := a.write(ctx, "open", append(slices.Clone(r.client), slog.String("request_id", requestID))...); err != nil {
		return err
	}
	a.refusals[key] = r
	r.end = time.AfterFunc(refusalInterval, func() { a.endCount(key, r) })
	return nil
}

// endCount writes the line about counted refusals and starts to count again. Without refusals, it stops counting.
func (a *Audit) endCount(key string, r *refusals) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.refusals[key] != r: // closed
		return
	case r.count == 0:
		delete(a.refusals, key)
		return
	case a.writeCounted(r) == nil:
		r.count = 0
	}
	r.end.Reset(refusalInterval)
}

// writeCounted writes a line about counted refusals, if there are any. The caller holds mu.
func (a *Audit) writeCounted(r *refusals) error {
	if r.count == 0 {
		return nil
	}
	return a.write(context.Background(), "open", append(slices.Clone(r.client),
		slog.Int("repeated", r.count), slog.Time("first_at", r.firstAt))...)
}

// KeysChanged records that an operator's command has changed the key-encryption keys of a namespace.
func (a *Audit) KeysChanged(ctx context.Context, operator, command, namespace, id string, before, after []sealer.KEK) error {
	states := func(name string, keks []sealer.KEK) slog.Attr {
		attrs := make([]any, len(keks))
		for i, kek := range keks {
			attrs[i] = slog.String(kek.ID, string(kek.State))
		}
		return slog.Group(name, attrs...)
	}
	return a.write(ctx, "keys", slog.String("operator", operator), slog.String("command", command), slog.String("namespace", namespace),
		slog.String("kek_id", id), states("before", before), states("after", after))
}

func (a *Audit) write(ctx context.Context, what string, attrs ...slog.Attr) error {
	line := slog.NewRecord(time.Now(), slog.LevelInfo, what, 0)
	line.AddAttrs(attrs...)
	if err := a.lines.Handle(ctx, line); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
