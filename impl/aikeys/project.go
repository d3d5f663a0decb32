package aikeys

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// WhoAmI returns the session.
func (s *server) WhoAmI(ctx context.Context, _ gen.WhoAmIRequestObject) (gen.WhoAmIResponseObject, error) {
	role, err := s.ownRole(ctx)
	if err != nil {
		return nil, err
	}
	who := auth.PrincipalFrom(ctx)
	reply := gen.WhoAmI200JSONResponse{
		CustomerID: who.CustomerID, ProjectID: who.ProjectID, UserID: who.UserID, Role: optional(gen.Role(role)),
		Method: string(who.Method), TokenID: optional(who.TokenID),
	}
	if !who.ExpiresAt.IsZero() {
		reply.ExpiresAt = optional(who.ExpiresAt.UTC())
	}
	return reply, nil
}

// signInCaching lets clients cache the sign-in options, which change only when the service restarts.
const signInCaching = "public, max-age=60"

// GetSignInOptions returns how to sign in. It is the only method that needs no credential. It asks neither the database
// nor the issuer.
func (s *server) GetSignInOptions(context.Context, gen.GetSignInOptionsRequestObject) (gen.GetSignInOptionsResponseObject, error) {
	return gen.GetSignInOptions200JSONResponse{
		Body: s.signIn, Headers: gen.GetSignInOptions200ResponseHeaders{CacheControl: new(signInCaching)},
	}, nil
}

func wireSignIn(cfg Config) gen.SignInOptionsResponse {
	reply := gen.SignInOptionsResponse{Methods: []gen.AuthMethod{string(auth.MethodAPIKey)}}
	if cfg.SessionTokens {
		reply.Methods = append(reply.Methods, string(auth.MethodOIDC))
	}
	if way := cfg.SignIn; way != nil {
		reply.OIDC = &gen.OIDCClient{Issuer: way.Issuer, ClientID: way.ClientID, Scopes: way.Scopes, SessionToken: "access_token"}
		if way.ByIDToken {
			reply.OIDC.SessionToken = "id_token"
		}
	}
	return reply
}

// ownRole returns the caller's role in the default project of their session, or an empty role if they are not a member.
func (s *server) ownRole(ctx context.Context) (models.Role, error) {
	_, role, err := s.member(ctx, httpapi.SessionDefault, httpapi.SessionDefault)
	if errors.Is(err, models.ErrNotMember) {
		return "", nil
	}
	return role, err
}

// GetPolicy returns the project's policy.
func (s *server) GetPolicy(ctx context.Context, req gen.GetPolicyRequestObject) (gen.GetPolicyResponseObject, error) {
	caller, _, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	policy, err := s.Store.Policy(ctx, caller)
	if err != nil {
		return nil, err
	}
	return gen.GetPolicy200JSONResponse{Policy: wirePolicy(policy)}, nil
}

// SetPolicy replaces the project's policy.
func (s *server) SetPolicy(ctx context.Context, req gen.SetPolicyRequestObject) (gen.SetPolicyResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	policy, err := s.parsePolicy(ctx, caller, req.Body)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventPolicySet, caller)
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) error { return tx.SetPolicy(&policy, caller.UserID, event) })
	if err != nil {
		return nil, err
	}
	return gen.SetPolicy200JSONResponse{Policy: wirePolicy(policy)}, nil
}

// parsePolicy returns the policy of a request, with defaults for absent members.
func (s *server) parsePolicy(ctx context.Context, caller models.Caller, body *gen.PolicyRequest) (models.Policy, error) {
	policy := models.DefaultPolicy(caller.CustomerID, caller.ProjectID)
	policy.UserKeysByProvider = map[string]models.UserKeys{} // a nil map would be stored as NULL, which the column refuses
	policy.UserKeys = cmp.Or(models.UserKeys(orZero(body.UserKeys)), policy.UserKeys)
	policy.OnBadKey = cmp.Or(models.OnBadKey(orZero(body.OnBadKey)), policy.OnBadKey)
	policy.OnLimited = cmp.Or(models.OnLimited(orZero(body.OnLimited)), policy.OnLimited)
	policy.Operations = cmp.Or(models.Operations(orZero(body.Operations)), policy.Operations)
	policy.RemovalGraceDays = body.RemovalGraceDays
	for slug, choice := range orZero(body.UserKeysByProvider) {
		_, err := s.findProvider(ctx, caller, slug)
		if errors.Is(err, problem.ErrInvalid) {
			return policy, problem.Invalid("user_keys_by_provider",
				"names a provider that we don't know; known are "+strings.Join(s.Providers.Slugs(), ", "))
		}
		if err != nil {
			return policy, err
		}
		policy.UserKeysByProvider[slug] = models.UserKeys(choice)
	}
	return policy, nil
}

// ListMembers returns the project's members.
func (s *server) ListMembers(ctx context.Context, req gen.ListMembersRequestObject) (gen.ListMembersResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, maxPageSize, req.Params.PageToken, models.ValidID)
	if err != nil {
		return nil, err
	}
	caller, _, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	members, err := s.Store.ListMembers(ctx, caller, page.after, page.limit())
	if err != nil {
		return nil, err
	}
	members, next := cut(page, members, func(m models.Member) string { return m.UserID })
	return gen.ListMembers200JSONResponse{Members: convert(members, wireMember), NextPageToken: next}, nil
}

// SetMember adds a member or changes their role.
func (s *server) SetMember(ctx context.Context, req gen.SetMemberRequestObject) (gen.SetMemberResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if !models.ValidID(req.UserID) {
		return nil, problem.Invalid("user_id", "can't be a dot, two dots or a dash")
	}
	event := s.event(ctx, models.EventMemberSet, caller)
	event.MemberID, event.Role = req.UserID, models.Role(req.Body.Role)
	var member models.Member
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) (err error) {
		if member, err = tx.SetMember(caller.CustomerID, caller.ProjectID, req.UserID, event.Role); err != nil {
			return err
		}
		event.Before, event.After = member.Before, &models.EventState{Role: member.Role}
		return tx.AppendEvent(event)
	})
	if err != nil {
		return nil, err
	}
	return gen.SetMember200JSONResponse{Member: wireMember(member)}, nil
}

// RemoveMember removes a member from the project and answers with the receipt. If the request waits, it answers when the receipt is complete.
func (s *server) RemoveMember(ctx context.Context, req gen.RemoveMemberRequestObject) (gen.RemoveMemberResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventMemberRemoved, caller)
	event.MemberID = req.UserID
	removal := models.Removal{ID: s.ids.Next("", s.Now()), CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: req.UserID}
	if days := req.Params.GraceDays; days != nil {
		removal.RestoreUntil = s.Now().Add(time.Duration(*days) * 24 * time.Hour).UnixMicro()
	}
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) (err error) {
		removal, err = tx.SuspendMember(removal, event)
		return err
	})
	if err != nil {
		return nil, err
	}
	receipt := s.receiptOf(removal.RemovedAt, removal.RemovedBy, s.receiptOfStop(ctx, removal.Stop(), wait))
	return gen.RemoveMember200JSONResponse{
		Receipt: &receipt, RestoreUntil: new(wireTime(removal.RestoreUntil)), SuspendedKeys: new(int(removal.Keys)),
		SuspendedTokens: new(len(removal.Tokens.List())),
	}, nil
}

// RestoreMember undoes the removal of a member.
func (s *server) RestoreMember(ctx context.Context, req gen.RestoreMemberRequestObject) (gen.RestoreMemberResponseObject, error) {
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	event := s.event(ctx, models.EventMemberSet, caller)
	event.MemberID = req.UserID
	var (
		member  models.Member
		removal models.Removal
	)
	err = s.asOwner(ctx, caller, event, func(tx *models.Tx) (err error) {
		member, removal, err = tx.RestoreMember(caller.CustomerID, caller.ProjectID, req.UserID, event)
		return err
	})
	if err != nil {
		return nil, err
	}
	return gen.RestoreMember200JSONResponse{
		Member: wireMember(member), RestoredKeys: int(removal.Keys), RestoredTokens: len(removal.Tokens.List()),
	}, nil
}

// GetMemberImpact shows an owner what the removal of a member would do.
func (s *server) GetMemberImpact(ctx context.Context, req gen.GetMemberImpactRequestObject) (gen.GetMemberImpactResponseObject, error) {
	caller, role, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if role != models.RoleOwner {
		return nil, errRemoveMember
	}
	impact, err := s.Store.RemovalImpact(ctx, caller.CustomerID, caller.ProjectID, req.UserID, s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	return gen.GetMemberImpact200JSONResponse(s.wireImpact(impact)), nil
}

func (s *server) wireImpact(i models.Impact) gen.MemberImpactResponse {
	wire := gen.MemberImpactResponse{
		Member: wireMember(i.Member), LastOwner: i.LastOwner, Stops: gen.ImpactStops{Tokens: i.TokensHere + i.TokensElsewhere},
		Stays: gen.ImpactStays{TokensElsewhere: i.TokensElsewhere, ProjectKeys: int(i.RegisteredKeys)}, AtProviders: []gen.ImpactAtProvider{},
	}
	registered := map[string][]string{}
	for _, k := range i.Registered {
		registered[k.Provider] = append(registered[k.Provider], k.ID)
	}
	slugs := slices.Concat(slices.Collect(maps.Keys(i.OwnKeys)), slices.Collect(maps.Keys(registered)))
	slices.Sort(slugs)
	for _, slug := range slices.Compact(slugs) {
		at := gen.ImpactAtProvider{Provider: slug, OwnKeys: i.OwnKeys[slug], ReplaceKeys: append([]string{}, registered[slug]...)}
		if provider, known := s.Providers.Lookup(slug); known {
			at.KeyPageURL = optional(provider.KeyPage)
		}
		wire.Stops.OwnKeys += at.OwnKeys
		wire.AtProviders = append(wire.AtProviders, at)
	}
	return wire
}

// defaultEvents is the default of page_size for events and fetches, as the OpenAPI document states it.
const defaultEvents = 50

// ListEvents returns a page of the audit trail.
func (s *server) ListEvents(ctx context.Context, req gen.ListEventsRequestObject) (gen.ListEventsResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, defaultEvents, req.Params.PageToken, func(id string) bool {
		return strings.HasPrefix(id, models.EventIDPrefix) && models.ValidID(id)
	})
	if err != nil {
		return nil, err
	}
	filter, err := s.eventFilter(req.Params)
	if err != nil {
		return nil, err
	}
	caller, role, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	events, err := s.Store.ListEvents(ctx, caller, filter, page.after, page.limit())
	if err != nil {
		return nil, err
	}
	events, next := cut(page, events, func(e models.Event) string { return e.ID })
	for i := range events {
		if role != models.RoleOwner && events[i].ActorUserID != caller.UserID {
			events[i].SourceIP = ""
		}
	}
	return gen.ListEvents200JSONResponse{Events: convert(events, wireEvent), NextPageToken: next}, nil
}

func (s *server) eventFilter(params gen.ListEventsParams) (f models.EventFilter, err error) {
	f.KeyID, f.Actor = parseKeyID(orZero(params.KeyID)), orZero(params.Actor)
	f.Type, f.Outcome = models.EventType(orZero(params.Type)), models.Outcome(orZero(params.Outcome))
	if f.Provider, err = s.parseProvider(params.Provider); err != nil {
		return f, err
	}
	f.From, f.To, err = parsePeriod(params.From, params.To)
	return f, err
}

// parsePeriod returns the bounds of a list in microseconds; 0 means no bound.
func parsePeriod(from, to *time.Time) (first, end int64, err error) {
	if from != nil && to != nil && from.After(*to) {
		return 0, 0, problem.Invalid("from", "must not be after to")
	}
	if from != nil {
		first = max(0, from.UnixMicro())
	}
	if to != nil {
		end = max(1, to.UnixMicro()) // 0 is no bound; nothing was done before 1970
	}
	return first, end, nil
}

func wirePolicy(p models.Policy) gen.Policy {
	return gen.Policy{
		UserKeys: gen.UserKeys(p.UserKeys), UserKeysByProvider: wireExceptions(p.UserKeysByProvider), OnBadKey: gen.OnBadKey(p.OnBadKey),
		OnLimited: new(gen.OnLimited(p.OnLimited)), Operations: new(gen.Operations(p.Operations)),
		RemovalGraceDays: p.RemovalGraceDays, UpdatedAt: optionalTime(p.UpdatedAt), UpdatedBy: optional(p.UpdatedBy),
	}
}

func wireExceptions(choices map[string]models.UserKeys) gen.UserKeysByProvider {
	exceptions := make(gen.UserKeysByProvider, len(choices))
	for provider, choice := range choices {
		exceptions[provider] = gen.UserKeys(choice)
	}
	return exceptions
}

func wireMember(m models.Member) gen.Member {
	return gen.Member{UserID: m.UserID, Role: gen.Role(m.Role), CreatedAt: wireTime(m.CreatedAt), UpdatedAt: wireTime(m.UpdatedAt)}
}

func wireEvent(e models.Event) gen.Event {
	return gen.Event{
		ID: e.ID, Type: string(e.Type), Outcome: string(e.Outcome), At: wireTime(e.At),
		Actor: gen.Actor{UserID: e.ActorUserID, Method: e.ActorMethod, TokenID: optional(e.ActorTokenID)},
		KeyID: optional(e.KeyID), TokenID: optional(e.TokenID), Provider: optional(e.Provider), MemberID: optional(e.MemberID),
		Role: optional(gen.Role(e.Role)), SourceIP: e.SourceIP, RequestID: e.RequestID,
		Before: wireState(e.Before), After: wireState(e.After), Repeated: optional(e.Repeated), FirstAt: optionalTime(e.FirstAt),
	}
}

func wireState(s *models.EventState) *gen.EventState {
	if s == nil {
		return nil
	}
	state := &gen.EventState{
		Name: optional(s.Name), ExpiresAt: optionalTime(s.ExpiresAt), Order: s.Order, Weight: s.Weight,
		Role: optional(gen.Role(s.Role)), UserKeys: optional(gen.UserKeys(s.UserKeys)), OnBadKey: optional(gen.OnBadKey(s.OnBadKey)),
		OnLimited: optional(gen.OnLimited(s.OnLimited)), Operations: optional(gen.Operations(s.Operations)),
		RemovalGraceDays: s.RemovalGraceDays, Verdict: optional(s.Verdict), Reason: optional(s.Reason), Forced: optional(s.Forced), Version: optional(int(s.Version)),
		Source: optional(s.Source), BaseURL: optional(s.BaseURL),
	}
	if l := s.Limit; l != nil {
		state.Limit = &gen.KeyLimit{RequestsPerMinute: optional(l.RequestsPerMinute), RequestsPerDay: optional(l.RequestsPerDay), Concurrent: optional(l.Concurrent)}
	}
	if s.Restrict != nil {
		state.Restrict = &gen.Restrictions{Users: s.Restrict.Users, Models: s.Restrict.Models, Operations: s.Restrict.Operations}
	}
	if s.UserKeys != "" {
		state.UserKeysByProvider = new(wireExceptions(s.UserKeysByProvider))
	}
	return state
}

// page says which part of a list to return.
type page struct {
	after string // the id after which it begins; empty for the first page
	size  int
}

// maxPageSize is the largest page_size of a list, and the default page_size of most lists. It bounds the memory of an
// answer.
const maxPageSize = 1000

// parsePage parses page_size and page_token. A token is the last id of the previous page, in base64url.
func parsePage(size *int, defaultSize int, token *string, isValid func(id string) bool) (page, error) {
	p := page{size: cmp.Or(orZero(size), defaultSize)}
	if token == nil {
		return p, nil
	}
	after, err := base64.RawURLEncoding.DecodeString(*token)
	if err != nil || !isValid(string(after)) {
		return p, problem.Invalid("page_token", "is not a token that this list gave out")
	}
	p.after = string(after)
	return p, nil
}

// limit returns how many rows to read: one more than the page holds, to see whether another page follows.
func (p page) limit() int { return p.size + 1 }

// cut removes the extra row that limit asked for, and returns the token of the next page if there was such a row.
func cut[Row any](p page, rows []Row, id func(Row) string) ([]Row, *string) {
	if len(rows) <= p.size {
		return rows, nil
	}
	rows = rows[:p.size]
	return rows, new(base64.RawURLEncoding.EncodeToString([]byte(id(rows[p.size-1]))))
}

// member returns the caller and their role, if they are a member of the project.
func (s *server) member(ctx context.Context, customerID, projectID string) (models.Caller, models.Role, error) {
	caller, err := s.caller(ctx, customerID, projectID)
	if err != nil {
		return caller, "", err
	}
	role, err := s.Store.Role(ctx, caller, s.Now().UnixMicro())
	return caller, role, err
}

// asOwner runs a write that only an owner may make. The write stores the event. If another member attempts it, asOwner
// records a denied attempt.
func (s *server) asOwner(ctx context.Context, caller models.Caller, event models.Event, write func(*models.Tx) error) error {
	err := s.Store.Transact(ctx, func(tx *models.Tx) error {
		role, err := tx.Role(caller)
		if err != nil {
			return err
		}
		if role != models.RoleOwner {
			return models.ErrForbidden
		}
		return write(tx)
	})
	return s.recordDenied(ctx, err, event)
}
