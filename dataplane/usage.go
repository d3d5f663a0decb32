package dataplane

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

const (
	usageInterval = 10 * time.Second
	// lastUsageTimeout bounds the batches that Run sends on its way out, of which there may be many.
	lastUsageTimeout = 5 * time.Second
	// maxUsageBatch is the number of counts that fit a request's body.
	maxUsageBatch = 250
	// maxUsage is the number of counts that may wait; uses of further keys and users are not counted.
	maxUsage = 50_000
)

// usageKey is what is counted apart. The hour is that of the Clock, so that a count which has to wait is of one hour.
type usageKey struct {
	keyID, userID string
	hour          time.Duration
}

type usageCount struct {
	requests, refusals int64
	last               time.Duration // the Clock's
}

// usage counts the use of keys until the counts are stored at the control plane.
type usage struct {
	reporterID string

	mu     sync.Mutex
	counts map[usageKey]*usageCount // guarded by mu

	// sending is the batch under way, and batch its number. A batch goes unchanged until the control plane has stored it, so
	// that it counts once even if the answer is lost. Only the goroutine that sends uses them.
	sending map[usageKey]*usageCount
	batch   int64
}

func newUsage() *usage {
	// Many processes may share a credential and start at once, so the id must not come from a clock.
	return &usage{reporterID: ulid.MustNew(ulid.Now(), rand.Reader).String(), counts: map[usageKey]*usageCount{}}
}

// CountUse counts a request in the usage of its key; Report and ReportAnswer do so, too. Call it if the provider's answer is not known, as when
// another proxy sends the request, or if the data plane refuses the request after it has resolved the key. CountUse never
// blocks.
func (r *Resolver) CountUse(key *Key, refused bool) {
	if key == nil || key.ID == "" {
		return
	}
	now := r.clock.Now()
	k := usageKey{keyID: key.ID, hour: now.Truncate(time.Hour)}
	if key.Caller != nil {
		k.userID = key.Caller.UserID
	}
	if !r.usage.add(k, now, refused) {
		r.metrics.uncounted.Inc()
	}
}

// isRefusal reports whether a status means that the provider refused to serve the request.
func isRefusal(status int) bool {
	return slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests}, status)
}

// add counts a request, and reports whether there was room for it.
func (u *usage) add(k usageKey, now time.Duration, refused bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.counts[k]
	if c == nil {
		if len(u.counts) >= maxUsage {
			return false
		}
		c = new(usageCount)
		u.counts[k] = c
	}
	c.requests++
	if refused {
		c.refusals++
	}
	c.last = max(c.last, now)
	return true
}

// nextBatch returns the batch to send, empty if there is nothing to send.
func (u *usage) nextBatch() map[usageKey]*usageCount {
	if len(u.sending) > 0 {
		return u.sending
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sending = make(map[usageKey]*usageCount, min(len(u.counts), maxUsageBatch))
	for k, c := range u.counts {
		if len(u.sending) == maxUsageBatch {
			break
		}
		u.sending[k] = c
		delete(u.counts, k)
	}
	if len(u.sending) > 0 {
		u.batch++
	}
	return u.sending
}

// sendUsage sends counts at every interval, and what is left when ctx ends.
func (r *Resolver) sendUsage(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.intervals.usage)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastUsageTimeout)
			r.flushUsage(last)
			cancel()
			return
		case <-ticker.C:
			r.flushUsage(ctx)
		}
	}
}

// flushUsage sends all counts, batch by batch, until the control plane can't take one.
func (r *Resolver) flushUsage(ctx context.Context) {
	for {
		batch := r.usage.nextBatch()
		if len(batch) == 0 {
			return
		}
		body := r.usageReport(batch)
		if len(body.Counts) > 0 {
			status, _, _ := r.send(ctx, func(ctx context.Context) (*http.Response, error) { return r.client.ReportUsage(ctx, body) })
			switch status {
			case http.StatusNoContent:
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
				r.log.WarnContext(ctx, "the control plane does not accept counts of use", slog.Int("status", status))
				r.metrics.uncounted.Add(float64(requestsOf(body)))
			default:
				return
			}
		}
		r.usage.sending = nil
	}
}

// usageReport returns a batch as it is sent. It leaves out what is too old.
func (r *Resolver) usageReport(batch map[usageKey]*usageCount) gen.UsageReport {
	now := r.clock.Now()
	body := gen.UsageReport{ReporterID: r.usage.reporterID, Batch: r.usage.batch, Counts: make([]gen.UsageCount, 0, len(batch))}
	for k, c := range batch {
		ago := millisecondsAgo(now, c.last)
		if ago == nil {
			r.metrics.uncounted.Add(float64(c.requests))
			delete(batch, k)
			continue
		}
		body.Counts = append(body.Counts, gen.UsageCount{
			KeyID: k.keyID, UserID: optional(k.userID), Requests: c.requests, Refusals: c.refusals, LastUsedMsAgo: *ago,
		})
	}
	return body
}

func requestsOf(body gen.UsageReport) (n int64) {
	for _, c := range body.Counts {
		n += c.Requests
	}
	return n
}
