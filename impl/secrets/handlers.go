package secrets

import (
	"context"
	"errors"
	"net/http"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/sealer"
)

// SealSecret implements gen.StrictServerInterface.
func (s *server) SealSecret(ctx context.Context, req gen.SealSecretRequestObject) (gen.SealSecretResponseObject, error) {
	text := []byte(req.Body.Secret.Reveal())
	defer clear(text)
	plaintext, err := decode("secret", text)
	if err != nil {
		return nil, err
	}
	secret := sealer.NewSecret(plaintext)
	defer secret.Wipe()
	namespace, err := s.namespace(ctx)
	if err != nil {
		return nil, err
	}
	envelope, err := namespace.Seal(ctx, bindingOf(req.Body.Binding), secret)
	if err != nil {
		return nil, toClientError(err)
	}
	return gen.SealSecret200JSONResponse{KekID: envelope.KEKID, Envelope: encode(envelope.Bytes)}, nil
}

// OpenEnvelope implements gen.StrictServerInterface. It writes the audit line before the response, for failed opens too. If it can't
// write the line, it does not return the secret.
func (s *server) OpenEnvelope(
	ctx context.Context, req gen.OpenEnvelopeRequestObject,
) (response gen.OpenEnvelopeResponseObject, err error) {
	envelope, err := decode("envelope", []byte(req.Body.Envelope))
	if err != nil {
		return nil, err
	}
	item := sealer.Item{Binding: bindingOf(req.Body.Binding), Envelope: envelope}
	if client := clientFrom(ctx); !client.May[Open] && item.Binding != sealer.CanaryBinding() {
		if err := s.audit.refused(ctx, client, Identities(ctx), httpapi.CallFrom(ctx).ID); err != nil {
			return nil, errors.Join(errClientNotAllowed, httpapi.ErrUnrecorded, err)
		}
		return nil, errClientNotAllowed
	}
	var secret sealer.Secret
	outcome := outcomeFailed // if it panics
	defer func() {
		if unrecorded := s.audit.opened(ctx, httpapi.CallFrom(ctx).ID, clientFrom(ctx), item, outcome); unrecorded != nil {
			secret.Wipe()
			response, err = nil, errors.Join(errBusy, httpapi.ErrUnrecorded, unrecorded)
		}
	}()
	if secret, err = s.open(ctx, item); err != nil {
		outcome = slug(err)
		return nil, err
	}
	outcome = outcomeOpened
	return opened{secret}, nil
}

func (s *server) open(ctx context.Context, item sealer.Item) (sealer.Secret, error) {
	namespace, err := s.namespace(ctx)
	if err != nil {
		return sealer.Secret{}, err
	}
	secret, err := namespace.Open(ctx, item.Binding, item.Envelope)
	return secret, toClientError(err)
}

// RewrapEnvelopes implements gen.StrictServerInterface.
func (s *server) RewrapEnvelopes(
	ctx context.Context, req gen.RewrapEnvelopesRequestObject,
) (gen.RewrapEnvelopesResponseObject, error) {
	namespace, err := s.namespace(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]sealer.Item, len(req.Body.Items))
	for i, item := range req.Body.Items {
		// Invalid base64 becomes an empty envelope, which the sealer reports as the problem of this item.
		envelope, _ := decode("envelope", []byte(item.Envelope))
		items[i] = sealer.Item{Binding: bindingOf(item.Binding), Envelope: envelope}
	}
	rewrapped, err := sealer.RewrapAll(ctx, namespace, items)
	if err != nil {
		return nil, toClientError(err)
	}
	results := make([]gen.RewrapResult, len(rewrapped))
	for i, result := range rewrapped {
		if results[i], err = resultOf(result); err != nil {
			return nil, err
		}
	}
	return gen.RewrapEnvelopes200JSONResponse{Results: results}, nil
}

// resultOf returns the result of one item, which may be a problem with the item. It returns an error for a fault of the service or its
// backend.
func resultOf(r sealer.Result) (gen.RewrapResult, error) {
	if r.Err == nil {
		envelope := encode(r.Envelope.Bytes)
		return gen.RewrapResult{KekID: &r.Envelope.KEKID, Envelope: &envelope}, nil
	}
	err := toClientError(r.Err)
	if row := problems.Find(err); row.Status < http.StatusInternalServerError {
		return gen.RewrapResult{Problem: &row.Slug}, nil
	}
	return gen.RewrapResult{}, err
}

// ListKEKs implements gen.StrictServerInterface.
func (s *server) ListKEKs(ctx context.Context, _ gen.ListKEKsRequestObject) (gen.ListKEKsResponseObject, error) {
	namespace, err := s.namespace(ctx)
	if err != nil {
		return nil, err
	}
	keks, err := namespace.KEKs(ctx)
	if err != nil {
		return nil, toClientError(err)
	}
	list := gen.ListKEKs200JSONResponse{Keks: make([]gen.KEK, len(keks))}
	for i, kek := range keks {
		list.Keks[i] = gen.KEK{ID: kek.ID, State: string(kek.State)}
		if kek.State == sealer.KEKPrimary {
			list.Primary = kek.ID
		}
	}
	return list, nil
}

func (s *server) namespace(ctx context.Context) (sealer.Sealer, error) {
	found, err := s.sealer(ctx, clientFrom(ctx).Namespace)
	return found, toClientError(err)
}

// toClientError joins the sealer's errors with this API's sentinels.
func toClientError(err error) error {
	switch {
	case errors.Is(err, sealer.ErrBinding):
		return errors.Join(errDoesNotOpen, err)
	case errors.Is(err, sealer.ErrUnknownKEK):
		return errors.Join(errUnknownKEK, err)
	case errors.Is(err, sealer.ErrMalformed):
		return errors.Join(errMalformedEnvelope, err)
	case errors.Is(err, sealer.ErrUnavailable):
		return errors.Join(errBusy, err)
	case errors.Is(err, sealer.ErrInvalidBinding):
		return problem.Invalid("binding", "has a part that is empty or longer than 255 bytes, or version 0")
	case errors.Is(err, sealer.ErrInvalidSecret):
		return problem.Invalid("secret", "must be 1 to 65,536 bytes in base64")
	}
	return err
}

// slug returns the slug of an error's problem type.
func slug(err error) string { return problems.Find(err).Slug }
