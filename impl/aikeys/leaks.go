package aikeys

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	"github.com/agentrouter/aikeys/models"
)

// leakRate limits a user's searches for leaks, each of which tests up to 100 values.
var leakRate = ratelimit.Rate{PerSecond: 10.0 / 60, Burst: 10}

// reasonLeaked is the reason in the events of keys, versions and API keys that were ended because they have leaked.
const reasonLeaked = "leaked"

// The actions of a search with revoke.
const (
	actionNone      = "none"
	actionRevoked   = "revoked"
	actionDestroyed = "destroyed"
)

// leakSearch is a search for leaked values, on behalf of an owner.
type leakSearch struct {
	*server
	caller models.Caller
	revoke bool
	source string
	// deadline is when waiting for receipts ends.
	deadline time.Time
	// done has the matches so far, by key and version or by API key: two values may belong to one key.
	done map[string]gen.LeakMatch
}

// FindLeaks finds the keys, versions and API keys that leaked values belong to, and revokes them if the request says
// so.
func (s *server) FindLeaks(ctx context.Context, req gen.FindLeaksRequestObject) (gen.FindLeaksResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	values := make([]string, len(req.Body.Values))
	for i, value := range req.Body.Values {
		values[i] = value.Reveal()
	}
	search := leakSearch{server: s, caller: caller, revoke: req.Body.Revoke, source: orZero(req.Body.Source), done: map[string]gen.LeakMatch{}}
	if err := search.check(ctx, values); err != nil {
		return nil, err
	}
	search.deadline = time.Now().Add(wait)
	matches, err := search.run(ctx, values)
	if err != nil {
		return nil, err
	}
	return gen.FindLeaks200JSONResponse{Matches: matches}, nil
}

// check returns nil if the caller may make the search now.
func (l leakSearch) check(ctx context.Context, values []string) error {
	role, err := l.Store.Role(ctx, l.caller, l.Now().UnixMicro())
	switch {
	case err != nil:
		return err
	case role != models.RoleOwner && l.revoke:
		return l.recordDenied(ctx, models.ErrForbidden, l.event(ctx, models.EventKeyRevoked, l.caller))
	case role != models.RoleOwner:
		return errFindLeaks
	case !l.leaks.Allow(l.caller.CustomerID + "/" + l.caller.UserID):
		return &problem.Wait{Kind: httpapi.ErrTooManyRequests, Seconds: l.leaks.RetryAfter()}
	}
	reveals := l.Providers.Reveals(l.source, providers.Provider{}, "")
	for _, value := range values {
		reveals = reveals || l.source != "" && strings.Contains(l.source, value)
	}
	if reveals || !isPrintable(l.source) {
		return problem.Invalid("source", "looks like a secret or has invisible characters; it is shown to people, choose another")
	}
	return nil
}

// maxMatches is how many matches an answer lists: one key may match many values. A search revokes all matches, listed or not.
const maxMatches = 1000

// run returns the matches in the order of their values. It looks up all values in one query, even if none matches.
func (l leakSearch) run(ctx context.Context, values []string) ([]gen.LeakMatch, error) {
	key, err := l.Keyset.Fingerprints(ctx)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	candidates, fingerprints := make([][]string, len(values)), make([][][]byte, len(values))
	for i, value := range values {
		candidates[i] = providers.Candidates(value)
		if fingerprints[i], err = key.Of(l.caller.CustomerID, candidates[i]...); err != nil {
			return nil, err
		}
		all = append(all, fingerprints[i]...)
	}
	found, err := l.Store.FindLeaks(ctx, l.caller, all)
	if err != nil {
		return nil, err
	}
	byFingerprint := map[string][]models.Leak{}
	for _, leak := range found {
		byFingerprint[string(leak.Fingerprint)] = append(byFingerprint[string(leak.Fingerprint)], leak)
	}
	matches := []gen.LeakMatch{}
	for i := range values {
		keys, err := l.matchKeys(ctx, fingerprints[i], byFingerprint)
		if err != nil {
			return nil, err
		}
		tokens, err := l.matchTokens(ctx, candidates[i])
		if err != nil {
			return nil, err
		}
		for _, match := range append(keys, tokens...) {
			if match.Index = i; len(matches) < maxMatches {
				matches = append(matches, match)
			}
		}
	}
	return matches, nil
}

// matchKeys returns the matches of one value among keys, each version once.
func (l leakSearch) matchKeys(ctx context.Context, fingerprints [][]byte, found map[string][]models.Leak) (matches []gen.LeakMatch, err error) {
	var seen []string
	for _, fingerprint := range fingerprints {
		for _, leak := range found[string(fingerprint)] {
			name := models.SealedName(leak.Key.ID, leak.LeakVersion)
			if slices.Contains(seen, name) {
				continue
			}
			seen = append(seen, name)
			match, isDone := l.done[name]
			if !isDone {
				if match, err = l.endKey(ctx, leak); err != nil {
					return nil, err
				}
				l.done[name] = match
			}
			matches = append(matches, match)
		}
	}
	return matches, nil
}

// endKey returns the match of a version of a key. If the search revokes, it ends the version first.
func (l leakSearch) endKey(ctx context.Context, leak models.Leak) (gen.LeakMatch, error) {
	action := actionNone
	if l.revoke {
		err := l.Store.Transact(ctx, func(tx *models.Tx) (err error) {
			action, err = l.endVersion(ctx, tx, &leak)
			return err
		})
		if err != nil {
			return gen.LeakMatch{}, err
		}
	}
	k := leak.Key
	match := gen.LeakMatch{
		Kind: "key", KeyID: optional(k.ID), Version: optional(int(leak.LeakVersion)), Provider: optional(k.Provider), UserID: optional(k.UserID),
		State: string(cmp.Or(leak.VersionState, models.VersionDestroyed)), Action: action, LastUsedAt: optionalTime(k.LastUsedAt),
	}
	if k.UserID == "" || k.UserID == l.caller.UserID {
		match.Name = optional(k.Name)
	}
	switch {
	case k.Version != leak.LeakVersion && k.RevokedAt != 0:
		match.State = string(models.VersionDestroyed)
	case k.RevokedAt != 0:
		match.State = string(models.KeyRevoked)
	case k.Version == leak.LeakVersion:
		match.State = string(models.VersionActive)
	}
	if l.revoke && k.RevokedAt != 0 {
		match.Receipt = new(l.wireReceipt(k, l.receiptOfStop(ctx, k.Stop(), time.Until(l.deadline))))
	}
	return match, nil
}

// endVersion revokes the key of a leaked version that is active, and destroys any other version that is kept.
func (l leakSearch) endVersion(ctx context.Context, tx *models.Tx, leak *models.Leak) (action string, err error) {
	role, err := tx.Role(l.caller)
	if err == nil && role != models.RoleOwner {
		err = errFindLeaks
	}
	if err != nil {
		return "", err
	}
	k, err := tx.KeyOf(l.caller, leak.Key.ID)
	if err != nil {
		return "", err
	}
	newEvent := func(kind models.EventType) models.Event {
		event := l.keyEvent(ctx, kind, l.caller, k)
		event.After = &models.EventState{Reason: reasonLeaked, Source: l.source}
		return event
	}
	action = actionNone
	switch {
	case k.RevokedAt != 0:
	case k.Version == leak.LeakVersion:
		var revoked bool
		if revoked, err = tx.RevokeKey(&k, l.caller.UserID, newEvent(models.EventKeyRevoked)); revoked {
			action = actionRevoked
		}
	default:
		kept, err := tx.KeptVersions(k.ID)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(kept, func(v models.KeyVersion) bool { return v.Version == leak.LeakVersion }) {
			action = actionDestroyed
		}
		leak.VersionState = models.VersionDestroyed
		if err := tx.DestroyVersion(k, leak.LeakVersion, newEvent); err != nil {
			return "", err
		}
	}
	leak.Key = k
	return action, err
}

// matchTokens returns the matches of one value among the customer's API keys.
func (l leakSearch) matchTokens(ctx context.Context, candidates []string) (matches []gen.LeakMatch, err error) {
	for _, text := range candidates {
		id, hash, err := auth.ParseAPIKey(text)
		if err != nil {
			continue
		}
		match, isDone := l.done[id]
		if !isDone {
			t, err := l.Store.FindToken(ctx, id)
			if errors.Is(err, models.ErrNotFound) || err == nil && (t.CustomerID != l.caller.CustomerID || subtle.ConstantTimeCompare(t.Hash, hash[:]) != 1) {
				continue
			}
			if err == nil {
				match, err = l.endToken(ctx, t)
			}
			if err != nil {
				return nil, err
			}
			l.done[id] = match
		}
		if !slices.ContainsFunc(matches, func(m gen.LeakMatch) bool { return *m.TokenID == id }) {
			matches = append(matches, match)
		}
	}
	return matches, nil
}

// endToken returns the match of an API key. If the request asks to revoke, endToken first revokes the API key for all
// projects. The caller could do so anyway: they have the text of the API key, and so can act as its user.
func (l leakSearch) endToken(ctx context.Context, t models.Token) (gen.LeakMatch, error) {
	match := gen.LeakMatch{Kind: "api_key", TokenID: optional(t.ID), UserID: optional(t.UserID), Action: actionNone, LastUsedAt: optionalTime(t.LastUsedAt)}
	if l.revoke {
		wasRevoked := t.RevokedAt != 0
		var stop models.Stop
		err := l.Store.Transact(ctx, func(tx *models.Tx) error {
			role, err := tx.Role(l.caller)
			if err == nil && role != models.RoleOwner {
				err = errFindLeaks
			}
			if err != nil {
				return err
			}
			user := models.Caller{CustomerID: t.CustomerID, UserID: t.UserID}
			t, stop, err = tx.RevokeOwnToken(user, t.ID, true, func(t models.Token) models.Event {
				of := l.caller
				of.ProjectID = t.ProjectID
				event := l.event(ctx, models.EventTokenRevoked, of)
				event.After = &models.EventState{Reason: reasonLeaked, Source: l.source}
				return event
			})
			return err
		})
		if err != nil {
			return match, err
		}
		if !wasRevoked {
			match.Action = actionRevoked
		}
		match.Receipt = new(l.receiptOf(t.RevokedAt, t.RevokedBy, l.receiptOfStop(ctx, stop, time.Until(l.deadline))))
	}
	match.State = l.wireToken(l.caller, t).State
	return match, nil
}
