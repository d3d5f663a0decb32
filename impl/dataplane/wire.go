package dataplane

import (
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
)

// wireFetch returns the answer to a fetch, with the key in plain text.
func wireFetch(f found, p plaintextKey) gen.FetchKey200JSONResponse {
	key, scope := f.choice.Key, "project"
	if key.UserID != "" {
		scope = "user"
	}
	return gen.FetchKey200JSONResponse{
		KeyID: key.ID, Version: int(key.Version), CustomerID: key.CustomerID, ProjectID: key.ProjectID, Provider: key.Provider,
		Scope: scope, Reason: string(f.choice.Reason), Secret: p.secret, BaseURL: p.baseURL, AuthStyle: string(p.authStyle),
		AsOf: f.asOf, Caller: f.wireCaller,
	}
}

// tokenCheck is how long an answer may serve a session token before the token is checked again. No event says that a token has
// ended or that its issuer no longer accepts it.
const tokenCheck = time.Minute

// wireCaller returns whom a credential stands for, and for how long an answer may serve it.
func wireCaller(p auth.Principal, now time.Time) *gen.Caller {
	who := &gen.Caller{UserID: p.UserID}
	if p.TokenID != "" {
		who.TokenID = &p.TokenID
	}
	until := p.ExpiresAt
	if check := now.Add(tokenCheck); p.Method == auth.MethodOIDC && (until.IsZero() || until.After(check)) {
		until = check
	}
	if !until.IsZero() {
		left := max(0, until.Sub(now).Milliseconds())
		who.ValidMs = &left
	}
	return who
}
