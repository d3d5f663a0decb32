package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/internal/problem"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/verdict"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// FetchKey returns the key that serves a request, in plain text. The decision is on record before it is answered.
func (s *server) FetchKey(ctx context.Context, req gen.FetchKeyRequestObject) (gen.FetchKeyResponseObject, error) {
	lookup, err := s.parseLookup(req.Body)
	if err != nil {
		return nil, err
	}
	now := s.now()
	found, err := s.find(ctx, auth.PrincipalFrom(ctx).DataPlaneID, lookup, now)
	enforcesRestrictions := lists(req.Params.AgentrouterEnforces, "restrictions")
	switch {
	case err != nil:
	case found.Key.Restrictions.NeedsDataPlane() && !enforcesRestrictions:
		err = errNotEnforced
	case !found.Key.Limits.IsZero() && !lists(req.Params.AgentrouterEnforces, "limits"):
		err = errLimitsNotEnforced
	}
	var key plaintextKey
	if err == nil {
		key, err = s.open(ctx, found.Key, now)
	}
	record := fetchRecord(ctx, now, found, err)
	if key.Life > 0 {
		record.DerivedUntil = now.Add(key.Life).UnixMicro()
	}
	if unrecorded := s.record(ctx, record, err); unrecorded != nil {
		return nil, unrecorded
	}
	if errors.Is(err, exchange.ErrRefused) {
		if unreported := s.reportRefusal(ctx, found, now); unreported != nil {
			return nil, unreported
		}
	}
	if err != nil {
		if !enforcesRestrictions && errors.Is(err, resolution.ErrKeyRestricted) {
			err = errOtherUsers
		}
		return nil, explainStop(found, lookup.hideOthers(err))
	}
	return wireFetch(found, key, now), nil
}

var (
	// errNotEnforced says that a key is restricted in a way that the data plane does not enforce, as those of earlier releases.
	errNotEnforced = errors.New("the data plane does not enforce the key's restrictions")
	// errLimitsNotEnforced is the same of its limits.
	errLimitsNotEnforced = errors.New("the data plane does not enforce the key's limits")
	// errOtherUsers is resolution.ErrKeyRestricted for such a data plane.
	errOtherUsers = errors.New("the keys are restricted to other users")
)

// lists reports whether the words in a data plane's header have one, such as restrictions.
func lists(given *string, one string) bool {
	if given == nil {
		return false
	}
	for word := range strings.SplitSeq(*given, ",") {
		if strings.TrimSpace(word) == one {
			return true
		}
	}
	return false
}

// reportRefusal stores that a cloud refuses the credential of a key, as data planes report it of those that they send.
func (s *server) reportRefusal(ctx context.Context, f found, now time.Time) error {
	d, err := s.dataPlane(ctx)
	if err != nil {
		return err
	}
	report := models.KeyReport{
		KeyID: f.Key.ID, FailedAt: now.UnixMicro(), FailureStatus: http.StatusUnauthorized, FailureReason: string(verdict.Rejected),
		FailedVersion: f.Key.Version,
		FailedFor:     models.ReportedCaller{UserID: f.caller.UserID, TokenID: f.caller.TokenID},
	}
	_, err = s.store.ReportKeys(ctx, d, []models.KeyReport{report}, func(kind models.EventType, k models.Key, caller models.ReportedCaller) models.Event {
		return s.keyEvent(ctx, kind, d, k, caller)
	})
	return err
}

// explainStop adds to ErrKeyRevoked and its like which key stopped, when and by whom. The caller is a member who may read that, or else
// the data plane is, which may serve the customer.
func explainStop(f found, err error) error {
	for _, kind := range []error{resolution.ErrKeyRevoked, resolution.ErrKeyDisabled, resolution.ErrKeyExpired} {
		switch {
		case !errors.Is(err, kind):
		case f.Key.ID != "": // asked for by its id
			return &problem.Error{Kind: kind, Detail: "The key " + describeStop(f.Key, kind) + "; no data plane may use it."}
		case f.Stopped.UserID != "":
			return &problem.Error{Kind: kind, Detail: "Your own key " + describeStop(f.Stopped, kind) + "; no other key of this provider may serve you."}
		default:
			return &problem.Error{Kind: kind, Detail: "The project's key " + describeStop(f.Stopped, kind) + "; no other key of this provider may serve you."}
		}
	}
	return err
}

// describeStop returns which key stopped, when and by whom: "openai-prod …9f3c was revoked at 2026-11-23T09:45:12Z by alice".
func describeStop(k models.Key, kind error) string {
	name := k.Name
	if k.DisplaySuffix != "" {
		name += " …" + k.DisplaySuffix
	}
	at := func(micros int64) string { return time.UnixMicro(micros).UTC().Format(time.RFC3339) }
	switch kind {
	case resolution.ErrKeyDisabled: //nolint:errorlint // it is one of explainStop's list
		return name + " was disabled at " + at(k.DisabledAt) + " by " + k.DisabledBy
	case resolution.ErrKeyExpired:
		return name + " expired at " + at(k.ExpiresAt)
	}
	return name + " was revoked at " + at(k.RevokedAt) + " by " + k.RevokedBy
}

// hideOthers replaces ErrNotServed by the answer for what does not exist, unless the data plane named the customer itself: whether a
// key id or a credential is another customer's is not for a data plane to learn. The record has the reason.
func (l lookup) hideOthers(err error) error {
	switch {
	case !errors.Is(err, models.ErrNotServed):
		return err
	case l.keyID != "":
		return models.ErrNotFound
	case l.credential != "":
		return resolution.ErrCallerUnauthenticated
	}
	return err
}

// found is what was found for a fetch. After an error it holds what was known by then, for the record.
type found struct {
	// caller is on whose behalf the data plane asks, or whose key it asks for by its id.
	caller models.Caller
	// wireCaller is the caller as the answer has it; nil for a fetch that is not about one user.
	wireCaller *gen.Caller
	provider   string
	resolution.Fetched
}

// find finds what a data plane asks for.
func (s *server) find(ctx context.Context, dataPlaneID string, l lookup, now time.Time) (found, error) {
	if l.keyID != "" {
		f, err := s.findByID(ctx, dataPlaneID, l.keyID, now)
		if err == nil && providers.IsCustom(f.provider) && !l.custom {
			err = fmt.Errorf("%w: the data plane does not serve custom providers", models.ErrNotFound)
		}
		return f, err
	}
	f := found{provider: l.provider, caller: models.Caller{CustomerID: l.customerID, ProjectID: l.projectID, UserID: l.userID}}
	if l.userID != "" {
		f.wireCaller = &gen.Caller{UserID: l.userID}
	}
	if l.credential != "" {
		session, err := s.authenticate(ctx, l.credential)
		if err != nil {
			return f, err
		}
		f.caller = models.Caller{CustomerID: session.CustomerID, ProjectID: cmp.Or(l.projectID, session.ProjectID),
			UserID: session.UserID, TokenID: session.TokenID}
		f.wireCaller = wireCaller(session, now)
	}
	var err error
	f.Fetched, err = resolution.Fetch(ctx, s.store, dataPlaneID,
		resolution.Request{Caller: f.caller, Provider: f.provider, Limited: l.limited, Now: now.UnixMicro()})
	if errors.Is(err, models.ErrSessionEnded) {
		s.callers.Drop(f.caller.TokenID)
		return f, resolution.ErrCallerUnauthenticated
	}
	return f, err
}

// findByID looks up a key by its id alone.
func (s *server) findByID(ctx context.Context, dataPlaneID, id string, now time.Time) (found, error) {
	key, asOf, err := s.store.FetchByID(ctx, dataPlaneID, id, now.UnixMicro())
	if err != nil {
		return found{Fetched: byID(models.Key{ID: id}, "")}, err
	}
	f := found{
		caller:   models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID},
		provider: key.Provider, Fetched: byID(key, asOf),
	}
	if key.UserID != "" {
		f.wireCaller = &gen.Caller{UserID: key.UserID}
	}
	_, err = resolution.Stop(key, now.UnixMicro())
	return f, err
}

// byID returns a key that was asked for by its id. No policy says that it may serve more than inference.
func byID(key models.Key, asOf string) resolution.Fetched {
	return resolution.Fetched{
		Choice: resolution.Choice{Key: key, Reason: resolution.ByID}, Operations: models.OperationsInference, AsOf: asOf,
	}
}

// authenticate opens the session of a caller's credential. The reason for a refusal is not passed on: the caller of this API
// is the data plane, and a 401 would be about its own credential.
func (s *server) authenticate(ctx context.Context, credential string) (auth.Principal, error) {
	p, err := s.callers.Authenticate(ctx, "Bearer "+credential)
	if errors.Is(err, auth.ErrUnauthenticated) {
		return auth.Principal{}, resolution.ErrCallerUnauthenticated
	}
	return p, err
}

// errUnreadable is returned for a key whose envelope does not open, or opens to something that can't be used.
var errUnreadable = errors.New("key is unreadable")

// plaintextKey is an unsealed key as a data plane gets it, and its provider.
type plaintextKey struct {
	providers.Credential
	provider providers.Provider
}

// open unseals a key, and exchanges it for a token if its provider's cloud requires that. From here on its plaintext is in the answer, and nowhere else.
func (s *server) open(ctx context.Context, key models.Key, now time.Time) (plaintextKey, error) {
	provider, err := s.findProvider(ctx, key)
	if err != nil {
		return plaintextKey{}, err
	}
	credential, err := provider.Open(ctx, s.sealer, sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: sealer.ProviderAt(provider.Slug, provider.Destination), Version: key.Version,
	}, key.Envelope, now)
	switch {
	case err != nil && (errors.Is(err, sealer.ErrUnavailable) || ctx.Err() != nil):
		return plaintextKey{}, err
	case err != nil:
		return plaintextKey{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	if err := s.exchanger.Complete(ctx, fmt.Sprintf("%s:%d", key.ID, key.Version), &credential); err != nil {
		return plaintextKey{}, err
	}
	return plaintextKey{credential, provider}, nil
}

// findProvider returns the provider of a key. Of a custom one, the key opens only if its base URL is that for which the key was sealed.
func (s *server) findProvider(ctx context.Context, key models.Key) (providers.Provider, error) {
	if found, known := s.providers.Lookup(key.Provider); known {
		return found, nil
	}
	if !providers.IsCustom(key.Provider) {
		return providers.Provider{}, fmt.Errorf("%w: its provider is not in the catalogue", errUnreadable)
	}
	found, err := s.store.CustomProvider(ctx, key.CustomerID, key.ProjectID, key.Provider)
	if errors.Is(err, models.ErrNotFound) {
		return providers.Provider{}, fmt.Errorf("%w: its provider is gone", errUnreadable)
	}
	return providers.CustomOf(found.Slug, found.Name, found.BaseURL, found.Dialect, found.Auth, found.Header).Provider(), err
}

// The fields of a request that say which key it asks for. A request has exactly one of them.
const (
	byCredential = "credential"
	byCustomer   = "customer_id"
	byKeyID      = "key_id"
)

// lookupModes lists, for each of these fields, the other fields that it requires and that it allows.
var lookupModes = []struct {
	field              string
	required, optional []string
}{
	{byCredential, []string{"provider"}, []string{"project_id", "limited"}},
	{byCustomer, []string{"project_id", "provider"}, []string{"user_id", "limited"}},
	{byKeyID, nil, nil},
}

// lookup is what a fetch asks for: a key by its id, or the key that serves a caller's requests to a provider. The caller is
// the bearer of credential, or else a customer's project, with a user if one is named.
type lookup struct {
	keyID                         string
	custom                        bool // whether the key may be one for a custom provider
	credential                    string
	customerID, projectID, userID string
	provider                      string
	limited                       []string // ids of keys that are at a limit at the data plane
}

// parseLookup returns what a request's body asks for.
func (s *server) parseLookup(body *gen.FetchRequest) (lookup, error) {
	if err := s.checkLookup(body); err != nil {
		return lookup{}, err
	}
	l := lookup{
		keyID: textOf(body.KeyID), customerID: textOf(body.CustomerID), projectID: textOf(body.ProjectID), userID: textOf(body.UserID),
		provider: textOf(body.Provider), custom: s.servesCustom(body), limited: body.Limited,
	}
	if body.Credential != nil {
		l.credential = body.Credential.Reveal()
	}
	return l, nil
}

func textOf(field *string) string {
	if field == nil {
		return ""
	}
	return *field
}

// checkLookup makes the checks that the document can't describe: a request must identify a key in exactly one of the modes, with
// the fields that the mode requires and no others.
func (s *server) checkLookup(body *gen.FetchRequest) error {
	given := map[string]bool{
		byCredential: body.Credential != nil, byCustomer: body.CustomerID != nil, byKeyID: body.KeyID != nil,
		"project_id": body.ProjectID != nil, "user_id": body.UserID != nil, "provider": body.Provider != nil, "limited": len(body.Limited) > 0,
	}
	for _, mode := range lookupModes {
		if !given[mode.field] {
			continue
		}
		var fields []problem.Field
		delete(given, mode.field)
		for _, name := range mode.required {
			if !given[name] {
				fields = append(fields, problem.Field{Field: name, Message: "is required with " + mode.field})
			}
			delete(given, name)
		}
		for _, name := range mode.optional {
			delete(given, name)
		}
		for _, name := range []string{byCustomer, byKeyID, "project_id", "provider", "user_id", "limited"} {
			if given[name] {
				fields = append(fields, problem.Field{Field: name, Message: "can't be given together with " + mode.field})
			}
		}
		if len(fields) > 0 {
			return &problem.Error{Kind: problem.ErrInvalid, Fields: fields}
		}
		return s.checkProvider(body)
	}
	return problem.Invalid("body", "must have one of credential, customer_id and key_id")
}

// checkProvider refuses a provider that is not in the catalogue, and of custom ones all if the data plane does not say that it serves
// them: an older one connects wherever a base URL leads.
func (s *server) checkProvider(body *gen.FetchRequest) error {
	slug := body.Provider
	if slug == nil || s.servesCustom(body) && providers.IsCustom(*slug) {
		return nil
	}
	if _, known := s.providers.Lookup(*slug); !known {
		return problem.Invalid("provider", "is not a provider that we know; known are "+strings.Join(s.providers.Slugs(), ", "))
	}
	return nil
}

// servesCustom reports whether custom providers may serve a request.
func (s *server) servesCustom(body *gen.FetchRequest) bool {
	return s.customProviders && body.CustomProviders != nil && *body.CustomProviders
}

// reasonFailed is the code under which any failure is on record that reasons does not have.
const reasonFailed = "failed"

// reasons are the codes under which refusals are on record.
var reasons = []struct {
	err  error
	code string
}{
	{models.ErrNotServed, "customer_not_served"},
	{models.ErrNotMember, "not_a_member"},
	{resolution.ErrKeyRevoked, string(resolution.KeyRevoked)},
	{resolution.ErrKeyDisabled, string(resolution.KeyDisabled)},
	{resolution.ErrKeyExpired, string(resolution.KeyExpired)},
	{resolution.ErrKeyRestricted, string(resolution.KeyRestricted)},
	{errNotEnforced, "restrictions_not_enforced"},
	{errLimitsNotEnforced, "limits_not_enforced"},
	{resolution.ErrUserKeyRequired, string(resolution.UserKeyRequired)},
	{resolution.ErrNoKey, string(resolution.NoKey)},
	{models.ErrNotFound, string(resolution.NoKey)},
	{errUnreadable, "unreadable"},
	{exchange.ErrRefused, "credential_refused"},
	{exchange.ErrUnavailable, "token_unavailable"},
}

// unrecorded are failures that leave no record, since nothing was decided and nobody learned anything: the data plane itself
// was refused, the database did not answer, the request was cancelled, a test of a key is not known, or the caller's credential is
// unknown. Recording the last would let strangers fill the database.
var unrecorded = []error{models.ErrDataPlaneEnded, models.ErrUnavailable, resolution.ErrCallerUnauthenticated, context.Canceled, errNoTest}

// fetchRecord returns the record of a fetch that had this outcome, nil for a key that was given out.
func fetchRecord(ctx context.Context, now time.Time, f found, outcome error) models.FetchRecord {
	r := models.FetchRecord{
		At: now.UnixMicro(), DataPlaneID: auth.PrincipalFrom(ctx).DataPlaneID, CustomerID: f.caller.CustomerID, ProjectID: f.caller.ProjectID,
		UserID: f.caller.UserID, TokenID: f.caller.TokenID, Provider: f.provider,
		KeyID: cmp.Or(f.Key.ID, f.Stopped.ID), Version: cmp.Or(f.Key.Version, f.Stopped.Version),
		Decision: models.OutcomeAllowed, Reason: string(f.Reason), RequestID: httpapi.CallFrom(ctx).ID,
	}
	if outcome != nil {
		r.Decision, r.Reason = models.OutcomeDenied, reasonOf(outcome)
	}
	return r
}

func reasonOf(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.code
		}
	}
	return reasonFailed
}

// record stores the record of a fetch, unless fetches with its outcome are not recorded.
func (s *server) record(ctx context.Context, r models.FetchRecord, outcome error) error {
	for _, err := range unrecorded {
		if errors.Is(outcome, err) {
			return nil
		}
	}
	if err := s.store.RecordFetch(ctx, r); err != nil {
		return fmt.Errorf("record fetch: %w", err)
	}
	return nil
}

// wireFetch returns the answer to a fetch, with the key in plain text.
func wireFetch(f found, p plaintextKey, now time.Time) gen.FetchKey200JSONResponse {
	key, scope := f.Key, "project"
	if key.UserID != "" {
		scope = "user"
	}
	routes := make([]gen.Route, 0, len(p.provider.Routes))
	for _, r := range p.provider.Routes {
		routes = append(routes, gen.Route{Path: r.Path, Host: optional(r.Host), AuthStyle: string(cmp.Or(r.AuthStyle, p.Style))})
	}
	answer := gen.FetchKey200JSONResponse{
		KeyID: key.ID, Version: int(key.Version), CustomerID: key.CustomerID, ProjectID: key.ProjectID, Provider: key.Provider,
		Scope: scope, Reason: string(f.Reason), Secret: gensecret.New(p.Secret), BaseURL: p.BaseURL, AuthStyle: string(p.Style), Routes: routes, Answers: wireRules(p.provider.Answers),
		AsOf: f.AsOf, Caller: f.wireCaller, Administration: p.provider.Administration, Operations: new(string(f.Operations)),
	}
	if f.OnLimited == models.OnLimitedNextKey {
		answer.OnLimited = new(string(f.OnLimited))
	}
	if r := key.Restrictions; r.NeedsDataPlane() {
		answer.Restrict = &gen.Restrictions{Models: r.Models, Operations: r.Operations}
	}
	if l := key.Limits; !l.IsZero() {
		answer.Limit = &gen.KeyLimit{RequestsPerMinute: optional(l.RequestsPerMinute), RequestsPerDay: optional(l.RequestsPerDay), Concurrent: optional(l.Concurrent)}
	}
	if p.provider.Destination != "" {
		answer.Dialect = new(string(p.provider.Dialect))
	}
	if p.Style == providers.AuthHeader {
		answer.Inject = []gen.InjectedHeader{{Name: p.provider.Header, Value: gensecret.New(p.Secret), Mode: "set"}}
	}
	if p.Life > 0 {
		answer.Inject = []gen.InjectedHeader{{Name: "Authorization", Value: gensecret.New("Bearer " + p.Secret), Mode: "set"}}
		answer.ExpiresInMs, answer.RefreshInMs = new(p.Life.Milliseconds()), new(p.Refresh.Milliseconds())
	}
	if key.ExpiresAt != 0 {
		left := max(0, time.UnixMicro(key.ExpiresAt).Sub(now).Milliseconds())
		answer.EndsInMs = &left
		if answer.ExpiresInMs == nil || left < *answer.ExpiresInMs {
			answer.ExpiresInMs, answer.RefreshInMs = &left, &left // a new answer before the end would end at the same time
		}
	}
	return answer
}

func wireRules(rules verdict.Rules) []gen.AnswerRule {
	answers := make([]gen.AnswerRule, 0, len(rules))
	for _, r := range rules {
		answers = append(answers, gen.AnswerRule{
			Status: r.Status, At: optional(r.At), Is: optional(r.Is), Begins: optional(r.Begins), Means: string(r.Means),
		})
	}
	return answers
}

// optional returns a field of an answer that is absent if it is empty.
func optional[T comparable](value T) *T {
	if value == *new(T) {
		return nil
	}
	return &value
}

// tokenCheck is how long an answer may serve a session token before the token is checked again. No event says that a token has
// ended or that its issuer no longer accepts it.
const tokenCheck = time.Minute

// wireCaller returns whom a credential stands for, and for how long an answer may serve it.
func wireCaller(p auth.Principal, now time.Time) *gen.Caller {
	who := &gen.Caller{UserID: p.UserID}
	if p.TokenID != "" {
		who.TokenID = &p.TokenID
	}
	until := p.ExpiresAt
	if check := now.Add(tokenCheck); p.Method == auth.MethodOIDC && (until.IsZero() || until.After(check)) {
		until = check
	}
	if !until.IsZero() {
		left := max(0, until.Sub(now).Milliseconds())
		who.ValidMs = &left
	}
	return who
}
