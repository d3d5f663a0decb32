package auth

import "time"

// Method says how a session was authenticated.
type Method string

// The methods of a Principal.
const (
	MethodAPIKey    Method = "api_key"
	MethodOIDC      Method = "oidc"
	MethodDataPlane Method = "data_plane"
)

// Principal is who a request acts for. Its ids are opaque, 1 to 64 characters of [A-Za-z0-9._-]. A data plane acts for
// itself: its id is both UserID and TokenID, and it has neither customer nor project.
type Principal struct {
	CustomerID string
	UserID     string
	// ProjectID is the project that a request means when it names none.
	ProjectID string
	// TokenID is the ULID of the token of ours; empty for MethodOIDC.
	TokenID string
	Method  Method
	// ExpiresAt is when the session ends; zero means never.
	ExpiresAt time.Time
}
