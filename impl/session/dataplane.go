package session

import (
	"context"

	"github.com/agentrouter/aikeys/models"
)

// DataPlaneFinder finds the row of a data plane by its ULID, live or not, with the errors of a TokenFinder; *models.Store
// is one.
type DataPlaneFinder interface {
	FindDataPlane(ctx context.Context, id string) (models.DataPlane, error)
}

// DataPlaneTokens finds the credentials of data planes as if they were API keys, for an Authenticator with DataPlanePrefix.
func DataPlaneTokens(dataPlanes DataPlaneFinder) TokenFinder { return dataPlaneTokens{dataPlanes} }

type dataPlaneTokens struct{ DataPlaneFinder }

// FindToken implements TokenFinder.
func (d dataPlaneTokens) FindToken(ctx context.Context, id string) (models.Token, error) {
	row, err := d.FindDataPlane(ctx, id)
	if err != nil {
		return models.Token{}, err
	}
	return models.Token{
		ID: row.ID, Hash: row.Hash, UserID: row.ID, CreatedAt: row.CreatedAt, ExpiresAt: row.ExpiresAt, RevokedAt: row.RevokedAt,
	}, nil
}
