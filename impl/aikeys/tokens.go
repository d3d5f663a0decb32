package aikeys

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/text/unicode/norm"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

const (
	// tokenLife is how long an API key lives if the request does not say.
	tokenLife = 90 * 24 * time.Hour
	// maxTokens is how many live API keys a user may have.
	maxTokens = 100
)

// ListProjects returns the projects in which the caller may act.
func (s *server) ListProjects(ctx context.Context, req gen.ListProjectsRequestObject) (gen.ListProjectsResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, maxPageSize, req.Params.PageToken, models.ValidID)
	if err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx, httpapi.SessionDefault, httpapi.SessionDefault)
	if err != nil {
		return nil, err
	}
	memberships, err := s.Store.ListProjects(ctx, caller, page.after, page.limit(), s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	memberships, next := cut(page, memberships, func(m models.Membership) string { return m.ProjectID })
	wire := func(m models.Membership) gen.Project {
		return gen.Project{CustomerID: caller.CustomerID, ProjectID: m.ProjectID, Role: gen.Role(m.Role), JoinedAt: wireTime(m.CreatedAt),
			SessionDefault: m.ProjectID == caller.ProjectID}
	}
	return gen.ListProjects200JSONResponse{Projects: convert(memberships, wire), NextPageToken: next}, nil
}

// ListTokens returns a page of the caller's API keys.
func (s *server) ListTokens(ctx context.Context, req gen.ListTokensRequestObject) (gen.ListTokensResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, maxPageSize, req.Params.PageToken, models.ValidID)
	if err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx, httpapi.SessionDefault, httpapi.SessionDefault)
	if err != nil {
		return nil, err
	}
	filter := models.TokenFilter{Live: req.Params.State != nil, Before: page.after, Limit: page.limit()}
	tokens, err := s.Store.ListOwnTokens(ctx, caller, filter, s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	tokens, next := cut(page, tokens, tokenID)
	wire := func(t models.Token) gen.Token { return s.wireToken(caller, t) }
	return gen.ListTokens200JSONResponse{Tokens: convert(tokens, wire), NextPageToken: next}, nil
}

// ListProjectTokens shows an owner a page of the API keys that can act in the project.
func (s *server) ListProjectTokens(ctx context.Context, req gen.ListProjectTokensRequestObject) (gen.ListProjectTokensResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, maxPageSize, req.Params.PageToken, models.ValidID)
	if err != nil {
		return nil, err
	}
	caller, role, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if role != models.RoleOwner {
		return nil, errReadTokens
	}
	filter := models.TokenFilter{Live: req.Params.State != nil, Before: page.after, Limit: page.limit()}
	tokens, err := s.Store.ListProjectTokens(ctx, caller, filter, s.Now().UnixMicro())
	if err != nil {
		return nil, err
	}
	tokens, next := cut(page, tokens, tokenID)
	wire := func(t models.Token) gen.Token { return s.wireProjectToken(caller, t) }
	return gen.ListProjectTokens200JSONResponse{Tokens: convert(tokens, wire), NextPageToken: next}, nil
}

// CreateToken makes an API key for the caller, and answers with it.
func (s *server) CreateToken(ctx context.Context, req gen.CreateTokenRequestObject) (gen.CreateTokenResponseObject, error) {
	caller, err := s.caller(ctx, httpapi.SessionDefault, httpapi.SessionDefault)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	token, err := s.parseToken(caller, req.Body, now)
	if err != nil {
		return nil, err
	}
	text, id, hash, err := auth.MintAPIKey(now)
	if err != nil {
		return nil, err
	}
	token.ID, token.Hash = id, hash
	event := s.event(ctx, models.EventTokenCreated, caller)
	event.MemberID = token.UserID
	err = s.Store.Transact(ctx, func(tx *models.Tx) error {
		if err := tx.FitToken(caller, &token, req.Body.ExpiresAt.IsSpecified()); err != nil {
			return err
		}
		if err := tx.CreateOwnToken(caller, token, maxTokens); err != nil {
			return err
		}
		event := event
		event.ProjectID, event.TokenID = token.ProjectID, token.ID
		return tx.AppendEvent(event)
	})
	if errors.Is(err, models.ErrQuotaExceeded) {
		return nil, errTokenQuota
	}
	if err != nil {
		return nil, s.recordDenied(ctx, err, event)
	}
	return gen.CreateToken201JSONResponse{Token: s.wireToken(caller, token), APIKey: secret.New(text)}, nil
}

// parseToken returns the API key that a request describes. It makes the checks that the document can't express.
func (s *server) parseToken(caller models.Caller, body *gen.CreateTokenRequest, now time.Time) (t models.Token, err error) {
	switch {
	case s.Providers.Reveals(body.Name, providers.Provider{}, ""):
		return t, problem.Invalid("name", "looks like a secret; names are shown to people, choose another")
	case !isPrintable(body.Name):
		return t, errName()
	}
	for _, id := range body.Projects {
		if !models.ValidID(id) {
			return t, problem.Invalid("projects", "can't hold a dot, two dots or a dash")
		}
	}
	t = models.Token{
		CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: caller.UserID, Name: norm.NFC.String(body.Name),
		Projects: models.NewIDSet(body.Projects...), ParentID: caller.TokenID, CreatedAt: now.UnixMicro(), ExpiresAt: now.Add(tokenLife).UnixMicro(),
	}
	if body.ExpiresAt.IsNull() {
		t.ExpiresAt = 0
	} else if body.ExpiresAt.IsSpecified() {
		at := body.ExpiresAt.MustGet()
		if err := checkExpiry(at, now); err != nil {
			return t, err
		}
		t.ExpiresAt = at.UnixMicro()
	}
	return t, nil
}

// RevokeToken revokes one of the caller's API keys and answers with the receipt. If the request waits, it answers when the receipt is complete.
func (s *server) RevokeToken(ctx context.Context, req gen.RevokeTokenRequestObject) (gen.RevokeTokenResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, httpapi.SessionDefault, httpapi.SessionDefault, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	var (
		token models.Token
		stop  models.Stop
	)
	err = s.Store.Transact(ctx, func(tx *models.Tx) (err error) {
		token, stop, err = tx.RevokeOwnToken(caller, req.TokenID, orZero(req.Params.Cascade) == "true", func(t models.Token) models.Event {
			of := caller
			of.ProjectID = t.ProjectID
			return s.event(ctx, models.EventTokenRevoked, of)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	receipt := s.receiptOf(token.RevokedAt, token.RevokedBy, s.receiptOfStop(ctx, stop, wait))
	return gen.RevokeToken200JSONResponse{Token: s.wireToken(caller, token), Receipt: receipt}, nil
}

// RevokeProjectToken lets an owner bar a member's API key from the project. It answers like RevokeToken.
func (s *server) RevokeProjectToken(ctx context.Context, req gen.RevokeProjectTokenRequestObject) (gen.RevokeProjectTokenResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	var (
		token models.Token
		stop  models.Stop
	)
	err = s.asOwner(ctx, caller, s.event(ctx, models.EventTokenRevoked, caller), func(tx *models.Tx) (err error) {
		token, stop, err = tx.RevokeProjectToken(caller, req.TokenID, orZero(req.Params.Cascade) == "true", func(models.Token) models.Event {
			return s.event(ctx, models.EventTokenRevoked, caller)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	receipt := s.receiptOf(cmp.Or(token.RevokedAt, token.BarredAt), cmp.Or(token.RevokedBy, token.BarredBy), s.receiptOfStop(ctx, stop, wait))
	return gen.RevokeProjectToken200JSONResponse{Token: s.wireProjectToken(caller, token), Receipt: receipt}, nil
}

func tokenID(t models.Token) string { return t.ID }

// wireToken returns an API key as its user sees it.
func (s *server) wireToken(caller models.Caller, t models.Token) gen.Token {
	token := gen.Token{
		TokenID: t.ID, Name: optional(t.Name), UserID: t.UserID, ProjectID: t.ProjectID, Projects: t.Projects.List(),
		BarredProjects: t.Barred.List(), MadeWith: optional(t.ParentID), State: "active", CreatedAt: wireTime(t.CreatedAt),
		ExpiresAt: optionalTime(t.ExpiresAt), LastUsedAt: optionalTime(t.LastUsedAt), RevokedAt: optionalTime(t.RevokedAt),
		RevokedBy: optional(t.RevokedBy), Current: optional(t.ID == caller.TokenID),
	}
	switch {
	case t.RevokedAt != 0:
		token.State = "revoked"
	case !t.Live(s.Now().UnixMicro()):
		token.State = "expired"
	}
	return token
}

// wireProjectToken returns an API key in the form for owners of the project, with nothing about other projects.
func (s *server) wireProjectToken(caller models.Caller, t models.Token) gen.Token {
	token := s.wireToken(caller, t)
	others := slices.DeleteFunc(t.Projects.List(), func(id string) bool { return !t.Reaches(id) || id == caller.ProjectID })
	token.ReachesBeyond = new(t.Projects == "" || len(others) > 0)
	token.Projects, token.BarredProjects = nil, nil
	if t.Projects != "" {
		token.Projects = []string{caller.ProjectID}
	}
	if t.Barred.Has(caller.ProjectID) {
		token.BarredProjects = []string{caller.ProjectID}
	}
	if t.Projects == "" && t.ProjectID != caller.ProjectID {
		token.Name, token.LastUsedAt = nil, nil
	}
	token.ProjectID = caller.ProjectID
	return token
}
