package dataplane

import (
	"strings"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/internal/problem"
)

// The fields of a request that say which key it asks for. A request has exactly one of them.
const (
	byCredential = "credential"
	byCustomer   = "customer_id"
	byKeyID      = "key_id"
)

// lookupModes lists, for each of these fields, the other fields that it requires and that it allows.
var lookupModes = []struct {
	field              string
	required, optional []string
}{
	{byCredential, []string{"provider"}, []string{"project_id"}},
	{byCustomer, []string{"project_id", "provider"}, []string{"user_id"}},
	{byKeyID, nil, nil},
}

// lookup is what a fetch asks for: a key by its id, or the key that serves a caller's requests to a provider. The caller is
// the bearer of credential, or else a customer's project, with a user if one is named.
type lookup struct {
	keyID                         string
	credential                    string
	customerID, projectID, userID string
	provider                      string
}

// parseLookup returns what a request's body asks for.
func (s *server) parseLookup(body *gen.FetchRequest) (lookup, error) {
	if err := s.checkLookup(body); err != nil {
		return lookup{}, err
	}
	text := func(field *string) string {
		if field == nil {
			return ""
		}
		return *field
	}
	l := lookup{
		keyID: text(body.KeyID), customerID: text(body.CustomerID), projectID: text(body.ProjectID), userID: text(body.UserID),
		provider: text(body.Provider),
	}
	if body.Credential != nil {
		l.credential = body.Credential.Reveal()
	}
	return l, nil
}

// checkLookup makes the checks that the document can't describe: a request must identify a key in exactly one of the modes, with
// the fields that the mode requires and no others.
func (s *server) checkLookup(body *gen.FetchRequest) error {
	given := map[string]bool{
		byCredential: body.Credential != nil, byCustomer: body.CustomerID != nil, byKeyID: body.KeyID != nil,
		"project_id": body.ProjectID != nil, "user_id": body.UserID != nil, "provider": body.Provider != nil,
	}
	for _, mode := range lookupModes {
		if !given[mode.field] {
			continue
		}
		var fields []problem.Field
		delete(given, mode.field)
		for _, name := range mode.required {
			if !given[name] {
				fields = append(fields, problem.Field{Field: name, Message: "is required with " + mode.field})
			}
			delete(given, name)
		}
		for _, name := range mode.optional {
			delete(given, name)
		}
		for _, name := range []string{byCustomer, byKeyID, "project_id", "provider", "user_id"} {
			if given[name] {
				fields = append(fields, problem.Field{Field: name, Message: "can't be given together with " + mode.field})
			}
		}
		if len(fields) > 0 {
			return &problem.Error{Kind: problem.ErrInvalid, Fields: fields}
		}
		return s.checkProvider(body.Provider)
	}
	return problem.Invalid("body", "must have one of credential, customer_id and key_id")
}

// checkProvider refuses a provider that is not in the catalogue.
func (s *server) checkProvider(slug *string) error {
	if slug == nil {
		return nil
	}
	if _, known := s.providers.Lookup(*slug); !known {
		return problem.Invalid("provider", "is not a provider that we know; known are "+strings.Join(s.providers.Slugs(), ", "))
	}
	return nil
}
