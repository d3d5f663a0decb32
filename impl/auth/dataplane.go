package auth

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
	return dataPlaneToken(row), nil
}

// DataPlaneCertificateFinder finds the active data planes of the names in a client certificate; *models.Store is one.
type DataPlaneCertificateFinder interface {
	FindDataPlanesByCertificate(ctx context.Context, names []string) ([]models.DataPlane, error)
}

// DataPlaneCertificates finds the data planes that client certificates stand for, for the Authenticator of DataPlaneTokens.
func DataPlaneCertificates(dataPlanes DataPlaneCertificateFinder) CertificateFinder {
	return dataPlaneCertificates{dataPlanes}
}

type dataPlaneCertificates struct{ DataPlaneCertificateFinder }

// FindCertificate implements CertificateFinder. A certificate with names of two data planes is of neither.
func (d dataPlaneCertificates) FindCertificate(ctx context.Context, names []string) (models.Token, error) {
	rows, err := d.FindDataPlanesByCertificate(ctx, names)
	switch {
	case err != nil:
		return models.Token{}, err
	case len(rows) == 0:
		return models.Token{}, models.ErrNotFound
	case len(rows) > 1:
		return models.Token{}, unauthenticated(errAmbiguous)
	}
	return dataPlaneToken(rows[0]), nil
}

// dataPlaneToken is a data plane's credential as if it were an API key.
func dataPlaneToken(d models.DataPlane) models.Token {
	return models.Token{
		ID: d.ID, Hash: d.Hash, UserID: d.ID, CreatedAt: d.CreatedAt, ExpiresAt: d.ExpiresAt, RevokedAt: d.RevokedAt,
	}
}
