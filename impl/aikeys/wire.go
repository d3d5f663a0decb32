package aikeys

import (
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
)

// convert maps rows to their wire form; the result is never null on the wire.
func convert[Row, Wire any](rows []Row, one func(Row) Wire) []Wire {
	out := make([]Wire, len(rows))
	for i, row := range rows {
		out[i] = one(row)
	}
	return out
}

// optional leaves an empty value out of the answer.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func wireTime(micros int64) time.Time { return time.UnixMicro(micros).UTC() }

func optionalTime(micros int64) *time.Time {
	if micros == 0 {
		return nil
	}
	t := wireTime(micros)
	return &t
}

func wireKey(k models.Key) gen.Key {
	state := models.KeyActive
	if k.RevokedAt != 0 {
		state = models.KeyRevoked
	}
	return gen.Key{
		ID: k.ID, CustomerID: k.CustomerID, ProjectID: k.ProjectID, Provider: k.Provider, Name: k.Name,
		DisplaySuffix: k.DisplaySuffix, UserScope: k.UserID != "", CreatedAt: wireTime(k.CreatedAt), CreatedBy: k.CreatedBy,
		RevokedAt: optionalTime(k.RevokedAt), RevokedBy: optional(k.RevokedBy), State: string(state),
		LastUsedAt: optionalTime(k.LastUsedAt), LastFailure: wireFailure(k),
	}
}

func wireFailure(k models.Key) *gen.KeyFailure {
	if k.LastFailureAt == 0 {
		return nil
	}
	return &gen.KeyFailure{At: wireTime(k.LastFailureAt), Status: k.LastFailureStatus}
}

// keyPath is where a key can be read.
func keyPath(k models.Key) string {
	return "/v1/customers/" + k.CustomerID + "/projects/" + k.ProjectID + "/aikeys/" + k.ID
}

// keyID accepts a bare ULID for a key's id.
func keyID(id string) string {
	if len(id) == len("01ARZ3NDEKTSV4RRFFQ69G5FAV") {
		return models.KeyIDPrefix + id
	}
	return id
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
	}
}

func wirePolicy(p models.Policy) gen.Policy {
	exceptions := make(gen.UserKeysByProvider, len(p.UserKeysByProvider))
	for provider, choice := range p.UserKeysByProvider {
		exceptions[provider] = gen.UserKeys(choice)
	}
	return gen.Policy{
		UserKeys: gen.UserKeys(p.UserKeys), UserKeysByProvider: exceptions, OnBadKey: gen.OnBadKey(p.OnBadKey),
		UpdatedAt: optionalTime(p.UpdatedAt), UpdatedBy: optional(p.UpdatedBy),
	}
}

func wireProvider(p providers.Provider) gen.Provider {
	return gen.Provider{
		Slug: p.Slug, DisplayName: p.DisplayName, BaseURL: p.BaseURL, AuthStyle: string(p.AuthStyle),
		SecretFormat: string(p.SecretFormat), Prefixes: p.KnownPrefixes(), RequiredFields: p.RequiredFields(), KeyPageURL: p.KeyPage,
	}
}
