package dataplane

import (
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/verdict"
)

const (
	reportInterval = 5 * time.Second
	// urgentDelay is how long an urgent report waits for others to join it.
	urgentDelay = 100 * time.Millisecond
	// lastReportTimeout bounds the report that Run sends before it returns.
	lastReportTimeout = time.Second
	maxBatch          = 500
	// maxReports is the number of keys that may wait for a report; further keys are not reported.
	maxReports = 10_000
	// maxReportAge is the age at which a use or a refusal is no longer reported.
	maxReportAge = 24 * time.Hour
	// forbiddenWindow is how far apart two callers' 403 answers may be to count as the key's refusal.
	forbiddenWindow = 5 * time.Minute
)

// outcome is what providers answered to a key since its last report. Times are the Clock's, or never.
type outcome struct {
	used, refused, exposed time.Duration
	status, version        int // the refusal's status, and the refused key's version
	reason                 verdict.Verdict
	refusedFor, exposedFor *Caller // the callers of these requests; nil for no particular user
}

// reports collects outcomes until they are sent.
type reports struct {
	urgent chan struct{} // signals that a key was refused, or sent back

	mu       sync.Mutex
	outcomes map[string]outcome // by key id; guarded by mu
	// forbidden has each key's latest 403 since a success, by key id; guarded by mu.
	forbidden map[string]forbidden
}

// forbidden is a 403 that a key's caller got. The user is empty if the key was requested for no particular user.
type forbidden struct {
	user string
	at   time.Duration
}

func newReports() *reports {
	return &reports{
		urgent: make(chan struct{}, 1), outcomes: map[string]outcome{}, forbidden: map[string]forbidden{},
	}
}

// Report is ReportAnswer without the answer's body. Use it where key.Answers.NeedBody(status) is false.
func (r *Resolver) Report(key *Key, status int) { r.ReportAnswer(key, status, nil) }

// ReportAnswer records a provider's answer to a request with a key. The first verdict.BodyLimit bytes of the answer's
// body are enough. The provider's rules decide whether the answer counts as a failure or as a use of the key; most
// answers need no rule: see verdict.Rules.Judge. A 403 that no rule covers is a failure if two users get one within
// five minutes with no success in between; one user's 403 may be about that user's request. After a 429, ReportAnswer
// sets the key aside as SetAside does. Run sends the reports in batches. ReportAnswer counts the request as CountUse
// does, and never blocks.
func (r *Resolver) ReportAnswer(key *Key, status int, body []byte) {
	if key == nil || key.ID == "" {
		return
	}
	if status == http.StatusTooManyRequests && key.NextIfLimited && !r.isAside(key) {
		r.SetAside(key, asideTime)
	}
	judged := key.Answers.Judge(status, body)
	isRefusal := slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests}, status)
	r.CountUse(key, isRefusal || judged.IsFailure())
	now := r.clock.Now()
	switch {
	case judged.IsFailure():
	case judged == verdict.Forbidden:
		var user string
		if key.Caller != nil {
			user = key.Caller.UserID
		}
		if !r.reports.confirmForbidden(key.ID, forbidden{user: user, at: now}) {
			return
		}
	case judged == verdict.Accepted, judged == verdict.RateLimited:
		r.reports.addSuccess(key.ID, now)
		return
	default:
		return // it says nothing about the key
	}
	r.reports.addUrgent(key.ID, outcome{
		used: never, refused: now, exposed: never, status: status, version: key.Version, reason: judged, refusedFor: key.Caller,
	})
}

// ReportExposed records that a provider sent the key itself back in an answer. The project's audit trail gets an event.
// ReportExposed never blocks.
func (r *Resolver) ReportExposed(key *Key) {
	if key == nil || key.ID == "" {
		return
	}
	r.reports.addUrgent(key.ID, outcome{used: never, refused: never, exposed: r.clock.Now(), exposedFor: key.Caller})
}

// addUrgent adds an outcome that is reported soon.
func (p *reports) addUrgent(keyID string, o outcome) {
	p.add(keyID, o)
	signal(p.urgent)
}

// confirmForbidden remembers a 403 and reports whether it confirms another user's 403.
func (p *reports) confirmForbidden(keyID string, f forbidden) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, ok := p.forbidden[keyID]
	if !ok && len(p.forbidden) >= maxReports {
		maps.DeleteFunc(p.forbidden, func(_ string, old forbidden) bool { return f.at-old.at > forbiddenWindow })
		if len(p.forbidden) >= maxReports {
			return false
		}
	}
	p.forbidden[keyID] = f
	return ok && before.user != f.user && f.at-before.at <= forbiddenWindow
}

// addSuccess records that a provider accepted a key. It drops the key's last 403, which the success disproves.
func (p *reports) addSuccess(keyID string, now time.Duration) {
	p.mu.Lock()
	delete(p.forbidden, keyID)
	p.mu.Unlock()
	p.add(keyID, outcome{used: now, refused: never, exposed: never})
}

// add merges an outcome into a waiting outcome of the same key. The later time wins, and so does the refusal of the
// later version.
func (p *reports) add(keyID string, o outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have, ok := p.outcomes[keyID]
	if !ok {
		if len(p.outcomes) < maxReports {
			p.outcomes[keyID] = o
		}
		return
	}
	have.used = max(have.used, o.used)
	if o.version > have.version || o.version == have.version && o.refused > have.refused {
		have.refused, have.status, have.version, have.reason, have.refusedFor = o.refused, o.status, o.version, o.reason, o.refusedFor
	}
	if o.exposed > have.exposed {
		have.exposed, have.exposedFor = o.exposed, o.exposedFor
	}
	p.outcomes[keyID] = have
}

// takeBatch removes a batch and returns it.
func (p *reports) takeBatch() map[string]outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	batch := make(map[string]outcome, min(len(p.outcomes), maxBatch))
	for keyID, o := range p.outcomes {
		if len(batch) == maxBatch {
			break
		}
		batch[keyID] = o
		delete(p.outcomes, keyID)
	}
	return batch
}

// sendReports sends reports every few seconds, urgent ones sooner. When ctx ends, it sends the rest.
func (r *Resolver) sendReports(ctx context.Context) {
	timer := time.NewTimer(r.cfg.intervals.report)
	defer timer.Stop()
	soon := false // whether the timer is set to an urgent report
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastReportTimeout)
			r.flushReports(last)
			cancel()
			return
		case <-r.reports.urgent:
			if !soon {
				soon = true
				timer.Reset(urgentDelay)
			}
			continue
		case <-timer.C:
		}
		r.flushReports(ctx)
		soon = false
		timer.Reset(r.cfg.intervals.report)
	}
}

// flushReports sends everything, batch by batch. A batch that the control plane can't take now is put back.
func (r *Resolver) flushReports(ctx context.Context) {
	for {
		batch := r.reports.takeBatch()
		if len(batch) == 0 {
			return
		}
		if status := r.sendBatch(ctx, batch); status == 0 || status >= 500 || status == http.StatusTooManyRequests {
			for keyID, o := range batch {
				r.reports.add(keyID, o)
			}
			return
		}
	}
}

// sendBatch sends a batch and returns the status of the answer, or 0 if there was none.
func (r *Resolver) sendBatch(ctx context.Context, batch map[string]outcome) int {
	now := r.clock.Now()
	body := gen.ReportRequest{Keys: make([]gen.KeyReport, 0, len(batch))}
	for keyID, o := range batch {
		report := gen.KeyReport{KeyID: keyID, UsedMsAgo: millisecondsAgo(now, o.used), FailedMsAgo: millisecondsAgo(now, o.refused)}
		if report.FailedMsAgo != nil {
			report.FailureStatus, report.FailureReason, report.FailedFor = &o.status, new(string(o.reason)), reportedCaller(o.refusedFor)
			report.FailedVersion = optionalNumber(o.version)
		}
		if report.ExposedMsAgo = millisecondsAgo(now, o.exposed); report.ExposedMsAgo != nil {
			report.ExposedFor = reportedCaller(o.exposedFor)
		}
		body.Keys = append(body.Keys, report)
	}
	post := func(ctx context.Context) (*http.Response, error) { return r.client.ReportKeys(ctx, body) }
	status, _, _ := r.send(ctx, post)
	if status == http.StatusBadRequest { // a replica of an older release does not know versions
		for i := range body.Keys {
			body.Keys[i].FailedVersion = nil
		}
		status, _, _ = r.send(ctx, post)
	}
	return status
}

func optionalNumber(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

func reportedCaller(c *Caller) *gen.ReportedCaller {
	if c == nil || c.UserID == "" {
		return nil
	}
	return &gen.ReportedCaller{UserID: c.UserID, TokenID: optional(c.TokenID)}
}

// millisecondsAgo returns the milliseconds since a time, or nil if the time is never or more than maxReportAge ago.
func millisecondsAgo(now, then time.Duration) *int {
	if then == never || now-then > maxReportAge {
		return nil
	}
	return new(int(max(now-then, 0).Milliseconds()))
}

const (
	usageInterval = 10 * time.Second
	// lastUsageTimeout bounds the time for the batches that Run sends before it returns. There may be many.
	lastUsageTimeout = 5 * time.Second
	// maxUsageBatch is the number of counts that fit a request's body.
	maxUsageBatch = 250
	// maxUsage is the number of counts that may wait; uses of further keys and users are not counted.
	maxUsage = 50_000
)

// usageKey identifies a count. hour is the Clock's time, rounded down to an hour, so a count covers at most one hour
// even if it has to wait.
type usageKey struct {
	keyID, userID string
	hour          time.Duration
}

type usageCount struct {
	requests, refusals int64
	last               time.Duration // the last request, by the Clock
}

// usage counts the use of keys until the counts are stored at the control plane.
type usage struct {
	reporterID string

	mu     sync.Mutex
	counts map[usageKey]*usageCount // guarded by mu

	// sending is the batch that is being sent, and batch is its number. A batch is repeated unchanged until the control
	// plane has stored it, so that it counts once even if an answer is lost. Only the goroutine that sends batches uses
	// these two fields.
	sending map[usageKey]*usageCount
	batch   int64
}

func newUsage() *usage {
	// Many processes may share a credential and start at once, so the id must not come from a clock.
	return &usage{reporterID: ulid.MustNew(ulid.Now(), rand.Reader).String(), counts: map[usageKey]*usageCount{}}
}

// CountUse counts a request in the usage of its key, as Report and ReportAnswer do. Call it if the provider's answer is not
// known because another proxy sends the request, or if the data plane refuses the request after it has resolved the key.
// CountUse never blocks.
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

// sendUsage sends counts at every interval. When ctx ends, it sends the rest.
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
				r.log.WarnContext(ctx, "the control plane does not accept usage counts", slog.Int("status", status))
				for _, c := range body.Counts {
					r.metrics.uncounted.Add(float64(c.Requests))
				}
			default:
				return
			}
		}
		r.usage.sending = nil
	}
}

// usageReport returns the request body for a batch. It leaves out counts that are too old.
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
