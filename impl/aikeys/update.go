package aikeys

import (
	"context"
	"errors"
	"strings"

	"github.com/oapi-codegen/nullable"
	"golang.org/x/text/unicode/norm"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

var (
	// errRevoked says that a revoked key can't be changed.
	errRevoked = errors.New("key is revoked")
	// errPrecondition says that If-Match does not name the key's state.
	errPrecondition = errors.New("key has another etag")
	// errSuspended says that a key can't be enabled because its user's removal suspended it.
	errSuspended = errors.New("key is suspended by the removal of its user")
)

// UpdateKey changes the members of a key that the request names, and answers with the key. If the key is disabled, the
// answer has the receipt. If the request asks to wait for the receipt, UpdateKey answers when the receipt is complete
// or the requested time is over.
func (s *server) UpdateKey(ctx context.Context, req gen.UpdateKeyRequestObject) (gen.UpdateKeyResponseObject, error) {
	caller, wait, err := s.callerAndWait(ctx, req.CustomerID, req.ProjectID, req.Params.Wait)
	if err != nil {
		return nil, err
	}
	change, err := s.parseChange(req.Body)
	if err != nil {
		return nil, err
	}
	var (
		key   models.Key
		event models.Event
	)
	err = s.Store.Transact(ctx, func(tx *models.Tx) (err error) {
		if key, event, err = s.keyToWrite(ctx, tx, tx.LockKey, caller, req.ID, eventOf(change)); err != nil {
			return err
		}
		newEvent := func(what models.EventType) models.Event { return s.keyEvent(ctx, what, caller, key) }
		if err := checkChange(key, change, req.Params.IfMatch); err != nil {
			return err
		}
		if err := tx.UpdateKey(key, change, caller.UserID, newEvent); err != nil {
			return err
		}
		key, err = tx.GetKey(caller, key.ID)
		return err
	})
	if errors.Is(err, models.ErrAlreadyExists) {
		return nil, errNameTaken(err)
	}
	if err != nil {
		return nil, s.recordDenied(ctx, err, event)
	}
	wire := s.wireKey(key)
	if key.DisabledAt != 0 {
		s.setReceipt(&wire, key, s.receiptOfStop(ctx, key.Stop(), wait))
	}
	return gen.UpdateKey200JSONResponse{
		Body:    gen.UpdateResponse{Key: wire},
		Headers: gen.UpdateKey200ResponseHeaders{ETag: wire.Etag},
	}, nil
}

// checkChange returns an error if a change of a key is refused. ifMatch is nil if the request has none.
func checkChange(key models.Key, change models.KeyChange, ifMatch *string) error {
	switch {
	case key.RevokedAt != 0:
		return errRevoked
	case key.UserID != "" && change.Restrict != nil && len(orZero(change.Restrict.Users)) > 0:
		return errOwnKeyUsers()
	case key.RemovalID != "" && change.Disabled != nil && !*change.Disabled:
		return errSuspended
	case ifMatch != nil && !matchesETag(*ifMatch, etag(key)) && !change.IsMade(key):
		return errPrecondition // this request may have made the change already, if it is sent again (RFC 9110, section 13.1.1)
	}
	return nil
}

// parseChange returns the change that a request describes. It makes the checks that the document can't express.
func (s *server) parseChange(body *gen.UpdateRequest) (change models.KeyChange, err error) {
	change.Disabled = body.Disabled
	if body.Name != nil {
		switch {
		case s.Providers.Reveals(*body.Name, providers.Provider{}, ""):
			return change, problem.Invalid("name", "looks like a secret; names are shown to people, choose another")
		case !isPrintable(*body.Name):
			return change, errName()
		}
		change.Name = new(norm.NFC.String(*body.Name))
	}
	if body.ExpiresAt.IsNull() {
		change.ExpiresAt = new(int64(0))
	} else if body.ExpiresAt.IsSpecified() {
		at := body.ExpiresAt.MustGet()
		if err := checkExpiry(at, s.Now()); err != nil {
			return change, err
		}
		change.ExpiresAt = new(at.UnixMicro())
	}
	change.Order = body.Order
	if body.Weight.IsNull() {
		change.Weight = new(0)
	} else if body.Weight.IsSpecified() {
		change.Weight = new(body.Weight.MustGet())
	}
	change.Restrict, change.Limit = changedRestrictions(body.Restrict), changedLimits(body.Limit)
	return change, nil
}

// changedRestrictions returns the change of a key's restrictions; nil changes nothing.
func changedRestrictions(given nullable.Nullable[gen.RestrictionsChange]) *models.RestrictionsChange {
	switch {
	case !given.IsSpecified():
		return nil
	case given.IsNull():
		return &models.RestrictionsChange{Users: &[]string{}, Models: &[]string{}, Operations: &[]string{}}
	}
	list := func(given nullable.Nullable[[]string]) *[]string {
		switch {
		case !given.IsSpecified():
			return nil
		case given.IsNull():
			return &[]string{}
		}
		return new(given.MustGet())
	}
	body := given.MustGet()
	return &models.RestrictionsChange{Users: list(body.Users), Models: list(body.Models), Operations: list(body.Operations)}
}

// changedLimits returns the change of a key's limits; nil changes nothing.
func changedLimits(given nullable.Nullable[gen.KeyLimitChange]) *models.LimitsChange {
	switch {
	case !given.IsSpecified():
		return nil
	case given.IsNull():
		return &models.LimitsChange{RequestsPerMinute: new(0), RequestsPerDay: new(0), Concurrent: new(0)}
	}
	number := func(given nullable.Nullable[int]) *int {
		switch {
		case !given.IsSpecified():
			return nil
		case given.IsNull():
			return new(0)
		}
		return new(given.MustGet())
	}
	body := given.MustGet()
	return &models.LimitsChange{RequestsPerMinute: number(body.RequestsPerMinute), RequestsPerDay: number(body.RequestsPerDay), Concurrent: number(body.Concurrent)}
}

// eventOf returns the type of the event for an attempt to make a change.
func eventOf(change models.KeyChange) models.EventType {
	switch {
	case change.Disabled == nil:
		return models.EventKeyUpdated
	case *change.Disabled:
		return models.EventKeyDisabled
	}
	return models.EventKeyEnabled
}

// matchesETag reports whether a value of If-Match names an entity tag (RFC 9110, section 13.1.1). The value has the
// form that the document requires. A weak tag matches nothing. The service's tags contain no comma.
func matchesETag(given, tag string) bool {
	for one := range strings.SplitSeq(given, ",") {
		if one = strings.Trim(one, " \t"); one == tag || one == "*" {
			return true
		}
	}
	return false
}
