package aikeys

import (
	"context"
	"time"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// RevokeKey ends a key, and answers with the receipt: at once, or when it is complete if the caller waits for that.
func (s *server) RevokeKey(ctx context.Context, req gen.RevokeKeyRequestObject) (gen.RevokeKeyResponseObject, error) {
	wait, err := parseWait(req.Params.Wait)
	if err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	key, err := s.revoke(ctx, caller, keyID(req.ID))
	if err != nil {
		return nil, err
	}
	receipt, err := s.receipts.WaitForReceipt(ctx, key, wait)
	if err != nil {
		// The key is revoked, and that is what was asked for. How far it has come is not known, so nothing is claimed.
		receipt = feed.Receipt{Remaining: unknownReceipt}
	}
	return gen.RevokeKey200JSONResponse{Receipt: s.wireReceipt(key, receipt)}, nil
}

// unknownReceipt is the time given to a revocation whose receipt can't be read: as long as any data plane may serve a key
// without asking.
const unknownReceipt = time.Hour

// revoke revokes the key, with its audit event, in one transaction. Revoking again keeps the first revocation.
func (s *server) revoke(ctx context.Context, caller models.Caller, id string) (models.Key, error) {
	var (
		key   models.Key
		event models.Event
	)
	err := s.store.Transact(ctx, func(tx *models.Tx) error {
		role, err := tx.Role(caller)
		if err != nil {
			return err
		}
		if key, err = tx.Key(caller, id); err != nil {
			return err
		}
		event = s.keyEvent(ctx, models.EventKeyRevoked, caller, key)
		if !role.Covers(roleToWrite(key)) {
			return models.ErrForbidden
		}
		first, err := tx.RevokeKey(&key, caller.UserID)
		if err != nil || !first {
			return err
		}
		return tx.AppendEvent(event)
	})
	return key, s.refused(ctx, err, event)
}

// maxWait is the longest that a revoke is held for its receipt.
const maxWait = 30 * time.Second

// parseWait reads the time to wait; none is zero.
func parseWait(text *string) (time.Duration, error) {
	if text == nil {
		return 0, nil
	}
	wait, err := time.ParseDuration(*text)
	if err != nil || wait > maxWait {
		return 0, problem.Invalid("wait", "must be a time such as 500ms or 2s, and 30s at the most")
	}
	return wait, nil
}

func (s *server) wireReceipt(k models.Key, r feed.Receipt) gen.Receipt {
	receipt := gen.Receipt{
		State: "complete", RevokedAt: wireTime(k.RevokedAt), RevokedBy: k.RevokedBy,
		DataPlanes: r.DataPlanes, Acknowledged: r.Acknowledged,
	}
	if r.Slowest > 0 {
		receipt.SlowestMs = new(int(r.Slowest.Milliseconds()))
	}
	if !r.Complete {
		receipt.State = "pending"
		receipt.CompleteBy = new(wireTime(s.now().Add(r.Remaining).UnixMicro()))
	}
	return receipt
}
