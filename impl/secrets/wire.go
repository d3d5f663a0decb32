package secrets

import (
	"bytes"
	"encoding/base64"
	"net/http"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/sealer"
)

// base64Text is the base64 of the API document: RFC 4648, section 4. Strict allows only one text for given bytes.
var base64Text = base64.StdEncoding.Strict()

func encode(b []byte) string { return base64Text.EncodeToString(b) }

// decode returns the bytes of a base64 field in a new slice.
func decode(field string, text []byte) ([]byte, error) {
	decoded := make([]byte, base64Text.DecodedLen(len(text)))
	n, err := base64Text.Decode(decoded, text)
	if err != nil || bytes.ContainsAny(text, "\r\n") { // package base64 skips line breaks
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

// opened is the response to an open. It is zeroed after it was written.
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
