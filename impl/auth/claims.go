package auth

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/agentrouter/aikeys/models"
)

// ClaimNames names the top-level claims of a session token that hold the ids of a Principal.
//
// Each must be a string that is an id as it stands: 1 to 64 characters of [A-Za-z0-9._-], and not "-", "." or "..",
// which mean something else in a path. Anything else, such as "auth0|abc" or an e-mail address, is refused rather than
// altered, since two users whose ids are altered could become one. For an issuer with such subjects, have it add a
// claim that is an id and name it here.
type ClaimNames struct {
	// Customer defaults to "customer_id", User to "sub", Project to "project_id".
	Customer string
	User     string
	Project  string
}

// ParseClaimNames reads names as "customer=org_id,user=sub,project=proj". Those not given have their defaults; the
// empty text means all of them. An unknown, repeated or empty name is an error.
func ParseClaimNames(text string) (ClaimNames, error) {
	var names ClaimNames
	fields := map[string]*string{"customer": &names.Customer, "user": &names.User, "project": &names.Project}
	if strings.TrimSpace(text) == "" {
		return names.withDefaults(), nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		field, claim, _ := strings.Cut(strings.TrimSpace(pair), "=")
		to, known := fields[field]
		switch {
		case !known:
			return ClaimNames{}, fmt.Errorf("claim names: %q is none of customer, user, project", field)
		case claim == "":
			return ClaimNames{}, fmt.Errorf("claim names: %q names no claim", field)
		case *to != "":
			return ClaimNames{}, fmt.Errorf("claim names: %q is given twice", field)
		}
		*to = claim
	}
	return names.withDefaults(), nil
}

func (n ClaimNames) withDefaults() ClaimNames {
	if n.Customer == "" {
		n.Customer = "customer_id"
	}
	if n.User == "" {
		n.User = "sub"
	}
	if n.Project == "" {
		n.Project = "project_id"
	}
	return n
}

// claimSet is the payload of a verified JWT.
type claimSet map[string]json.RawMessage

// decodeClaims reads a payload. It refuses one that has a registered claim in other letter case as well: go-oidc reads
// claims without regard to case, so "Aud" could stand in for "aud".
func decodeClaims(payload []byte) (claimSet, error) {
	var claims claimSet
	if err := json.Unmarshal(payload, &claims); err != nil {
		return nil, unauthenticated(errClaims)
	}
	for name := range claims {
		for _, registered := range []string{"iss", "aud", "exp", "nbf"} {
			if name != registered && strings.EqualFold(name, registered) {
				return nil, unauthenticated(errClaims)
			}
		}
	}
	return claims, nil
}

// id returns a claim that is an id. Its error names the claim, which is configuration, and not the value.
func (c claimSet) id(name string) (string, error) {
	var id string
	err := json.Unmarshal(c[name], &id)
	if err != nil || !models.ValidID(id) {
		return "", unauthenticated(fmt.Errorf("JWT's claim %q is missing or no id; "+
			"an id is 1 to 64 characters of [A-Za-z0-9._-], and neither a dash nor dots alone", name))
	}
	return id, nil
}
