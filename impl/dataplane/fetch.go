package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
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

// FetchKey returns the key that serves a request, in plain text. It stores a record of the decision before it answers.
func (s *server) FetchKey(ctx context.Context, req gen.FetchKeyRequestObject) (gen.FetchKeyResponseObject, error) {
	if err := s.checkRequest(req.Body); err != nil {
		return nil, err
	}
	now := s.Now()
	found, err := s.findKey(ctx, req.Body, now)
	if err == nil {
		err = checkEnforced(found.Key, req.Params.AgentrouterEnforces)
	}
	var key plaintextKey
	if err == nil {
		key, err = s.openKey(ctx, found.Key, now)
	}
	record := fetchRecord(ctx, now, found, err)
	if key.Life > 0 {
		record.DerivedUntil = now.Add(key.Life).UnixMicro()
	}
	if unrecorded := s.recordFetch(ctx, record, err); unrecorded != nil {
		return nil, unrecorded
	}
	if errors.Is(err, exchange.ErrRefused) {
		if unreported := s.reportRefusal(ctx, found, now); unreported != nil {
			return nil, unreported
		}
	}
	if err != nil {
		return nil, explainRefusal(err, found, req)
	}
	return wireFetch(found, key, now), nil
}

var (
	// errNotEnforced says that the data plane does not enforce the key's restrictions. Older releases do not.
	errNotEnforced = errors.New("the data plane does not enforce the key's restrictions")
	// errLimitsNotEnforced says that the data plane does not enforce the key's limits.
	errLimitsNotEnforced = errors.New("the data plane does not enforce the key's limits")
	// errOtherUsers takes the place of resolution.ErrKeyRestricted for a data plane that enforces no restrictions.
	errOtherUsers = errors.New("the keys are restricted to other users")
)

// checkEnforced returns an error if a key has restrictions or limits that the data plane does not enforce. enforces is
// the header in which the data plane lists what it enforces.
func checkEnforced(key models.Key, enforces *string) error {
	switch {
	case key.Restrictions.NeedsDataPlane() && !hasWord(enforces, "restrictions"):
		return errNotEnforced
	case !key.Limits.IsZero() && !hasWord(enforces, "limits"):
		return errLimitsNotEnforced
	}
	return nil
}

// hasWord reports whether a word is in a header that lists words, separated by commas.
func hasWord(header *string, word string) bool {
	return slices.ContainsFunc(strings.Split(valueOf(header), ","), func(one string) bool { return strings.TrimSpace(one) == word })
}

// valueOf returns the value of an optional field, or the zero value.
func valueOf[T any](field *T) (value T) {
	if field != nil {
		value = *field
	}
	return value
}

// reportRefusal stores that a cloud refuses the credential of a key, like a data plane's report of a refusal.
func (s *server) reportRefusal(ctx context.Context, f found, now time.Time) error {
	d, err := s.dataPlane(ctx)
	if err != nil {
		return err
	}
	_, err = s.storeReports(ctx, d, []models.KeyReport{{
		KeyID: f.Key.ID, FailedAt: now.UnixMicro(), FailureStatus: http.StatusUnauthorized, FailureReason: string(verdict.Rejected),
		FailedVersion: f.Key.Version, FailedFor: models.ReportedCaller{UserID: f.caller.UserID, TokenID: f.caller.TokenID},
	}})
	return err
}

// explainRefusal returns the error that answers a refused fetch. Unlike the fetch's record, the error does not reveal
// that a key id or a credential belongs to a customer that the data plane may not serve.
func explainRefusal(err error, f found, req gen.FetchKeyRequestObject) error {
	switch {
	case errors.Is(err, models.ErrNotServed) && req.Body.KeyID != nil:
		return models.ErrNotFound
	case errors.Is(err, models.ErrNotServed) && req.Body.Credential != nil:
		return resolution.ErrCallerUnauthenticated
	case errors.Is(err, resolution.ErrKeyRestricted) && !hasWord(req.Params.AgentrouterEnforces, "restrictions"):
		return errOtherUsers
	}
	for _, kind := range []error{resolution.ErrKeyRevoked, resolution.ErrKeyDisabled, resolution.ErrKeyExpired} {
		if errors.Is(err, kind) {
			return &problem.Error{Kind: kind, Detail: describeStop(f, kind)}
		}
	}
	return err
}

// describeStop says which key stopped, when and by whom: "The key openai-prod …9f3c was revoked at 2026-11-23T09:45:12Z
// by alice; …". Call it only if the data plane may serve the customer, and the caller, if there is one, is a member who
// may read the key.
func describeStop(f found, kind error) string {
	k, whose, consequence := f.Stopped, "The project's key ", "; no other key of this provider may serve you."
	switch {
	case f.Key.ID != "": // fetched by its id
		k, whose, consequence = f.Key, "The key ", "; no data plane may use it."
	case k.UserID != "":
		whose = "Your own key "
	}
	name := k.Name
	if k.DisplaySuffix != "" {
		name += " …" + k.DisplaySuffix
	}
	at := func(micros int64) string { return time.UnixMicro(micros).UTC().Format(time.RFC3339) }
	stopped := " was revoked at " + at(k.RevokedAt) + " by " + k.RevokedBy
	switch kind {
	case resolution.ErrKeyDisabled: //nolint:errorlint // it is one of explainRefusal's list
		stopped = " was disabled at " + at(k.DisabledAt) + " by " + k.DisabledBy
	case resolution.ErrKeyExpired:
		stopped = " expired at " + at(k.ExpiresAt)
	}
	return whose + name + stopped + consequence
}

// found is the result of findKey. After an error it has the fields that were known by then, for the record.
type found struct {
	// caller is the user or the project on whose behalf the data plane asks. For a fetch by key id, it is the user or
	// the project that the key belongs to.
	caller models.Caller
	// wireCaller is the caller in the form of the answer; nil for a fetch that is not about one user.
	wireCaller *gen.Caller
	provider   string
	resolution.Fetched
}

// findKey finds the key that a data plane asks for.
func (s *server) findKey(ctx context.Context, body *gen.FetchRequest, now time.Time) (found, error) {
	dataPlaneID := auth.PrincipalFrom(ctx).DataPlaneID
	if body.KeyID != nil {
		f, err := s.findByID(ctx, dataPlaneID, *body.KeyID, now)
		if err == nil && providers.IsCustom(f.provider) && !s.servesCustom(body) {
			err = fmt.Errorf("%w: the data plane does not serve custom providers", models.ErrNotFound)
		}
		return f, err
	}
	f := found{provider: valueOf(body.Provider), caller: models.Caller{
		CustomerID: valueOf(body.CustomerID), ProjectID: valueOf(body.ProjectID), UserID: valueOf(body.UserID),
	}}
	if body.UserID != nil {
		f.wireCaller = &gen.Caller{UserID: *body.UserID}
	}
	if body.Credential != nil {
		session, err := s.Sessions.Authenticate(ctx, "Bearer "+body.Credential.Reveal())
		if errors.Is(err, auth.ErrUnauthenticated) {
			err = resolution.ErrCallerUnauthenticated // a 401 would be about the data plane's own credential
		}
		if err != nil {
			return f, err
		}
		f.caller = models.Caller{CustomerID: session.CustomerID, ProjectID: cmp.Or(f.caller.ProjectID, session.ProjectID),
			UserID: session.UserID, TokenID: session.TokenID}
		f.wireCaller = wireCaller(session, now)
	}
	var err error
	f.Fetched, err = resolution.Fetch(ctx, s.Store, dataPlaneID,
		resolution.Request{Caller: f.caller, Provider: f.provider, Limited: body.Limited, Now: now.UnixMicro()})
	if errors.Is(err, models.ErrSessionEnded) {
		s.Sessions.Drop(f.caller.TokenID)
		return f, resolution.ErrCallerUnauthenticated
	}
	return f, err
}

// findByID looks up a key by its id alone.
func (s *server) findByID(ctx context.Context, dataPlaneID, id string, now time.Time) (found, error) {
	key, asOf, err := s.Store.FetchByID(ctx, dataPlaneID, id, now.UnixMicro())
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
	return f, resolution.Stop(key, now.UnixMicro()).Err()
}

// byID returns a key that was fetched by its id. The key may serve only inference, since no policy was read that could
// allow more.
func byID(key models.Key, asOf string) resolution.Fetched {
	return resolution.Fetched{
		Choice: resolution.Choice{Key: key, Reason: resolution.ByID}, Operations: models.OperationsInference, AsOf: asOf,
	}
}

// errUnreadable says that a key's envelope does not open, or that its content can't be used.
var errUnreadable = errors.New("key is unreadable")

// plaintextKey is an unsealed key in the form for data planes, with its provider.
type plaintextKey struct {
	providers.Credential
	provider providers.Provider
}

// openKey unseals a key and, if its provider's cloud requires it, exchanges it for a token. After that, the plaintext
// is only in the answer.
func (s *server) openKey(ctx context.Context, key models.Key, now time.Time) (plaintextKey, error) {
	provider, err := s.findProvider(ctx, key)
	if err != nil {
		return plaintextKey{}, err
	}
	credential, err := provider.Open(ctx, s.Sealer, bindingOf(key, provider), key.Envelope, now)
	switch {
	case err != nil && (errors.Is(err, sealer.ErrUnavailable) || ctx.Err() != nil):
		return plaintextKey{}, err
	case err != nil:
		return plaintextKey{}, fmt.Errorf("%w: %w", errUnreadable, err)
	case credential.Grant != nil:
		if err := s.Exchanger.Complete(ctx, fmt.Sprintf("%s:%d", key.ID, key.Version), &credential); err != nil {
			return plaintextKey{}, err
		}
	}
	return plaintextKey{credential, provider}, nil
}

// bindingOf returns the binding under which a provider's key was sealed.
func bindingOf(key models.Key, p providers.Provider) sealer.Binding {
	return sealer.Binding{
		CustomerID: key.CustomerID, ProjectID: key.ProjectID, KeyID: key.ID, Provider: sealer.ProviderAt(p.Slug, p.Destination), Version: key.Version,
	}
}

// findProvider returns the provider of a key. The key of a custom provider opens only if it was sealed for the
// provider's present base URL.
func (s *server) findProvider(ctx context.Context, key models.Key) (providers.Provider, error) {
	if found, known := s.Providers.Lookup(key.Provider); known {
		return found, nil
	}
	if !providers.IsCustom(key.Provider) {
		return providers.Provider{}, fmt.Errorf("%w: its provider is not in the catalogue", errUnreadable)
	}
	found, err := s.Store.CustomProvider(ctx, key.CustomerID, key.ProjectID, key.Provider)
	if errors.Is(err, models.ErrNotFound) {
		return providers.Provider{}, fmt.Errorf("%w: its provider is gone", errUnreadable)
	}
	return providers.CustomOf(found.Slug, found.Name, found.BaseURL, found.Dialect, found.Auth, found.Header).Provider(), err
}

// The fields that identify the key of a request, one for each mode of fetching. A request has exactly one of them.
const (
	byCredential = "credential"
	byCustomer   = "customer_id"
	byKeyID      = "key_id"
)

// requestModes lists the other fields that each of these fields requires, and those that it allows.
var requestModes = []struct {
	field              string
	required, optional []string
}{
	{byCredential, []string{"provider"}, []string{"project_id", "limited"}},
	{byCustomer, []string{"project_id", "provider"}, []string{"user_id", "limited"}},
	{byKeyID, nil, nil},
}

// checkRequest makes the checks that the document can't describe: a request must identify a key in exactly one of the modes, with
// the fields that the mode requires and no others.
func (s *server) checkRequest(body *gen.FetchRequest) error {
	given := map[string]bool{
		byCredential: body.Credential != nil, byCustomer: body.CustomerID != nil, byKeyID: body.KeyID != nil,
		"project_id": body.ProjectID != nil, "user_id": body.UserID != nil, "provider": body.Provider != nil, "limited": len(body.Limited) > 0,
	}
	for _, mode := range requestModes {
		if !given[mode.field] {
			continue
		}
		var fields []problem.Field
		for _, name := range []string{byCustomer, byKeyID, "project_id", "provider", "user_id", "limited"} {
			required := slices.Contains(mode.required, name)
			if required && !given[name] {
				fields = append(fields, problem.Field{Field: name, Message: "is required with " + mode.field})
			}
			if given[name] && name != mode.field && !required && !slices.Contains(mode.optional, name) {
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

// checkProvider refuses a provider that is not in the catalogue. It accepts a custom provider only from a data plane
// that says that it serves custom providers: older data planes connect to any address that a base URL leads to.
func (s *server) checkProvider(body *gen.FetchRequest) error {
	slug := body.Provider
	if slug == nil || s.servesCustom(body) && providers.IsCustom(*slug) {
		return nil
	}
	if _, known := s.Providers.Lookup(*slug); !known {
		return problem.Invalid("provider", "is not a provider that we know; known are "+strings.Join(s.Providers.Slugs(), ", "))
	}
	return nil
}

// servesCustom reports whether custom providers may serve a request.
func (s *server) servesCustom(body *gen.FetchRequest) bool {
	return s.CustomProviders && valueOf(body.CustomProviders)
}

// reasonFailed is the code in the records of all failures that reasons does not list.
const reasonFailed = "failed"

// reasons has the codes in the records of refusals.
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

// unrecorded are the failures that leave no record, because nothing was decided and nobody learned anything: the data
// plane was refused, the database did not answer, the request was cancelled, the test of a key is not known, or the
// caller's credential is unknown. If unknown credentials were recorded, strangers could fill the database.
var unrecorded = []error{models.ErrDataPlaneEnded, models.ErrUnavailable, resolution.ErrCallerUnauthenticated, context.Canceled, errNoTest}

// fetchRecord returns the record of a fetch that ended with an error, or with nil because it was answered with a key.
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

// recordFetch stores the record of a fetch, unless its outcome leaves none.
func (s *server) recordFetch(ctx context.Context, r models.FetchRecord, outcome error) error {
	if slices.ContainsFunc(unrecorded, func(err error) bool { return errors.Is(outcome, err) }) {
		return nil
	}
	if err := s.Store.RecordFetch(ctx, r); err != nil {
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
			answer.ExpiresInMs, answer.RefreshInMs = &left, &left // a new answer would end at the same time
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

// tokenCheck is how long an answer may serve a session token before the token is checked again: no event says that a token has
// ended, or that its issuer no longer accepts it.
const tokenCheck = time.Minute

// wireCaller returns the user of a session, and for how long an answer may serve their credential.
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
