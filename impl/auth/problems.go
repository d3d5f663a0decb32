package auth

import (
	"net/http"

	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// Problems returns the rows for this package's errors. An API that authenticates with the package adds them to its
// table.
func Problems() problem.Table {
	return problem.Table{
		{Err: ErrUnauthenticated, Status: http.StatusUnauthorized, Code: "unauthenticated", Slug: "unauthenticated", Title: "Unauthenticated",
			Detail: "Send one valid API key or session token in the header Authorization: Bearer <token>."},
		{Err: models.ErrSessionEnded, Status: http.StatusUnauthorized, Code: "unauthenticated", Slug: "unauthenticated", Title: "Unauthenticated",
			Detail: "This API key has been revoked or has expired; ask for a new one."},
		{Err: models.ErrDataPlaneEnded, Status: http.StatusUnauthorized, Code: "unauthenticated", Slug: "unauthenticated", Title: "Unauthenticated",
			Detail: "This data plane's credential has been revoked or has expired; ask its operator for a new one."},
		// This is a separate type, so that data planes don't mistake it for a failure of the service.
		{Err: ErrIssuerUnavailable, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "issuer-unavailable", Title: "Issuer unavailable",
			Detail: "The issuer of session tokens can't be reached at the moment; try again after the time in Retry-After."},
	}
}
