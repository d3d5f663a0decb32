package aikeys

import (
	"context"
	"errors"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/models"
)

// WhoAmI returns the session.
func (s *server) WhoAmI(ctx context.Context, _ gen.WhoAmIRequestObject) (gen.WhoAmIResponseObject, error) {
	role, err := s.ownRole(ctx)
	if err != nil {
		return nil, err
	}
	who := httpapi.CallFrom(ctx).Principal
	reply := gen.WhoAmI200JSONResponse{
		CustomerID: who.CustomerID, ProjectID: who.ProjectID, UserID: who.UserID, Role: optional(gen.Role(role)),
		Method: string(who.Method), TokenID: optional(who.TokenID),
	}
	if !who.ExpiresAt.IsZero() {
		reply.ExpiresAt = optional(who.ExpiresAt.UTC())
	}
	return reply, nil
}

// ownRole returns the caller's role in their session's project, empty when they have none there.
func (s *server) ownRole(ctx context.Context) (models.Role, error) {
	caller, err := s.caller(ctx, httpapi.SessionDefault, httpapi.SessionDefault)
	if err != nil {
		return "", err
	}
	role, err := s.store.Role(ctx, caller, s.now().UnixMicro())
	if errors.Is(err, models.ErrNotMember) {
		return "", nil
	}
	return role, err
}
