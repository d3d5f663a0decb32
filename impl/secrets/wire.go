package secrets

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/sealer"
)

// base64Text is the encoding of the document: RFC 4648, section 4, and one way alone to write given bytes.
var base64Text = base64.StdEncoding.Strict()

func encode(b []byte) string { return base64Text.EncodeToString(b) }

// decode returns the bytes of a field, in memory of their own.
func decode(field string, text []byte) ([]byte, error) {
	decoded := make([]byte, base64Text.DecodedLen(len(text)))
	n, err := base64Text.Decode(decoded, text)
	if err != nil || bytes.ContainsAny(text, "\r\n") { // which package base64 would skip
		clear(decoded)
		return nil, problem.Invalid(field, "must be in base64, with padding and without line breaks")
	}
	return decoded[:n], nil
}

func bindingOf(b gen.Binding) sealer.Binding {
	return sealer.Binding{
		CustomerID: b.CustomerID, ProjectID: b.ProjectID, KeyID: b.KeyID, Provider: b.Provider,
		Version: uint32(b.Version), //nolint:gosec // the document bounds it
	}
}

// binder fills in the bodies of the document's requests from the value that was validated, without another copy in JSON.
type binder struct{}

var errUnvalidated = errors.New("a body that was not validated")

// Bind implements echo.Binder. The value has the shape of the document by now.
func (binder) Bind(to any, c echo.Context) error {
	body, ok := c.Request().Body.(interface{ ValidatedValue() any })
	if !ok {
		return errUnvalidated
	}
	value, ok := body.ValidatedValue().(map[string]any)
	if !ok {
		return errUnvalidated
	}
	switch to := to.(type) {
	case *gen.SealSecretJSONRequestBody: // the secret is cut out
		to.Binding = bindingFrom(value["binding"])
	case *gen.OpenEnvelopeJSONRequestBody:
		*to = openFrom(value)
	case *gen.RewrapEnvelopesJSONRequestBody:
		items, _ := value["items"].([]any)
		to.Items = make([]gen.OpenRequest, len(items))
		for i, item := range items {
			to.Items[i] = openFrom(item)
		}
	default:
		return errUnvalidated
	}
	return nil
}

func openFrom(value any) gen.OpenRequest {
	members, _ := value.(map[string]any)
	return gen.OpenRequest{Binding: bindingFrom(members["binding"]), Envelope: text(members["envelope"])}
}

func bindingFrom(value any) gen.Binding {
	members, _ := value.(map[string]any)
	version, _ := members["version"].(int64)
	return gen.Binding{
		CustomerID: text(members["customer_id"]), ProjectID: text(members["project_id"]), KeyID: text(members["key_id"]),
		Provider: text(members["provider"]), Version: version,
	}
}

func text(value any) string {
	s, _ := value.(string)
	return s
}

// opened answers an open from memory that is zeroed once it is written.
type opened struct{ secret sealer.Secret }

// VisitOpenEnvelopeResponse implements gen.OpenEnvelopeResponseObject.
func (o opened) VisitOpenEnvelopeResponse(w http.ResponseWriter) error {
	defer o.secret.Wipe()
	const begin, end = `{"secret":"`, "\"}\n"
	answer := make([]byte, 0, len(begin)+base64Text.EncodedLen(o.secret.Len())+len(end))
	answer = append(answer, begin...)
	answer = base64Text.AppendEncode(answer, o.secret.Reveal())
	answer = append(answer, end...)
	defer clear(answer)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(answer)
	return err
}
