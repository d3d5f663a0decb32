package aikeys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models"
)

// idempotency is the record by which a retry is known, nil when the request carries no Idempotency-Key. Its fingerprint
// covers everything that the caller chose, the secret included, under a key that the database holds only sealed.
func (s *server) idempotency(ctx context.Context, caller models.Caller, key models.Key, req gen.RegisterKeyRequestObject) (*models.IdempotencyRecord, error) {
	if req.Params.IdempotencyKey == nil {
		return nil, nil //nolint:nilnil // no key, no record
	}
	macKey, err := s.canary.FingerprintKey(ctx)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, macKey)
	for _, part := range []string{key.Provider, key.Name, key.UserID, req.Body.Secret.Reveal()} {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(part))) // a hash never fails to write
		mac.Write([]byte(part))
	}
	hash := sha256.Sum256([]byte(*req.Params.IdempotencyKey))
	return &models.IdempotencyRecord{
		CustomerID: caller.CustomerID, ProjectID: caller.ProjectID, UserID: caller.UserID,
		KeyHash: hash[:], Fingerprint: mac.Sum(nil), KeyID: key.ID, CreatedAt: key.CreatedAt,
	}, nil
}
