package secrets

import (
	"errors"
	"net/http"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/problem"
)

// The errors of this API. Its clients hold the envelopes, so it says what is wrong with an envelope. The callers of
// aikeysd do not hold envelopes, so aikeysd reports the same errors of the sealer as internal errors.
var (
	errTooLarge          = errors.New("body larger than 1 MiB")
	errBusy              = errors.New("busy")
	errClientNotAllowed  = errors.New("client not allowed")
	errDoesNotOpen       = errors.New("does not open")
	errUnknownKEK        = errors.New("unknown key-encryption key")
	errMalformedEnvelope = errors.New("malformed envelope")
)

var problems = httpapi.Problems(
	problem.Row{Err: errTooLarge, Status: http.StatusRequestEntityTooLarge, Code: "invalid_argument", Slug: "body-too-large", Title: "Body too large",
		Detail: "The body is over the limit of 1 MiB."},
	problem.Row{Err: errClientNotAllowed, Status: http.StatusForbidden, Code: "permission_denied", Slug: "client-not-allowed", Title: "Client not allowed",
		Detail: "The operator of the secrets service has not allowed this client to do that."},
	problem.Row{Err: errDoesNotOpen, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "does-not-open", Title: "Does not open",
		Detail: "The envelope does not open under this binding."},
	problem.Row{Err: errUnknownKEK, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "unknown-kek", Title: "Unknown key-encryption key",
		Detail: "The envelope names a key-encryption key that is not in this namespace, or is retired."},
	problem.Row{Err: errMalformedEnvelope, Status: http.StatusUnprocessableEntity, Code: "failed_precondition", Slug: "malformed-envelope", Title: "Malformed envelope",
		Detail: "The bytes are not an envelope that this version can read."},
	problem.Row{Err: errBusy, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
		Detail: "The secrets service can't serve this at the moment; try again after the time in Retry-After."},
)

// Problems returns the API's table of problems.
func Problems() problem.Table { return problems }
