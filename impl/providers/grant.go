package providers

import (
	"cmp"
	"net/url"
	"regexp"
	"strings"

	"github.com/agentrouter/aikeys/internal/secret"
)

// Grant is a request to a token service: what a credential is exchanged for a token with. It prints without the credential.
type Grant struct {
	// URL is the service's. Its host is the catalogue's, and never a credential's.
	URL string
	// Form is the request's body, as application/x-www-form-urlencoded.
	Form secret.Text
	// Role is what is assumed instead of a request to URL; nil for that.
	Role *Role
}

// Role is a role in a customer's AWS account, which the service assumes for them.
type Role struct {
	ARN, Region string
	// ExternalID is the customer's, which the role's trust policy must require; Session says for which key the role is assumed.
	ExternalID, Session string
}

// fieldRole is the field with a role's name.
const fieldRole = "role_arn"

// ExternalID returns the external id with which roles are assumed for a customer. It is no secret: it keeps one customer from naming
// another's role (docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html).
func ExternalID(customerID string) string { return "aikeys:" + customerID }

// SetHolder says whose credential it is; keyID is empty before the key exists. A role is assumed only for its own customer.
func (c *Credential) SetHolder(customerID, keyID string) {
	if c.Grant != nil && c.Grant.Role != nil {
		c.Grant.Role.ExternalID, c.Grant.Role.Session = ExternalID(customerID), cmp.Or(keyID, "aikeys-verification")
	}
}

// grantOfRole returns what a role is assumed with.
func (p Provider) grantOfRole(field func(name string) string) (*Grant, error) {
	return &Grant{Role: &Role{ARN: field(fieldRole), Region: field("region")}}, p.checkFields(field)
}

// checkFields checks the values of a stored credential as they were checked at registration, so that a changed one can't name another role,
// nor change the path of a request.
func (p Provider) checkFields(field func(name string) string) error {
	for _, f := range p.Fields {
		if value := field(f.Name); value != "" && !f.matches(value) {
			return ErrCredential
		}
	}
	return nil
}

// HasRoles reports whether a credential of the provider may name a role to assume.
func (p Provider) HasRoles() bool { return p.hasAlternative(fieldRole) }

// grant returns the request for a token of an application in Microsoft Entra
// (learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
func (p Provider) grant(c Cloud, field func(name string) string) (*Grant, error) {
	tenant, client, password := field("tenant_id"), field("client_id"), field("client_secret")
	if tenant == "" || client == "" || password == "" {
		return nil, ErrCredential
	}
	if err := p.checkFields(field); err != nil {
		return nil, err
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {password}, "scope": {c.Scope},
	}
	return &Grant{URL: strings.ReplaceAll(c.TokenURL, "{tenant_id}", url.PathEscape(tenant)), Form: secret.New(form.Encode())}, nil
}

// matches reports whether text is a value of the field.
func (f Field) matches(text string) bool {
	if f.Pattern == "" {
		return true
	}
	whole, err := regexp.Compile(`^(?:` + f.Pattern + `)$`)
	return err == nil && whole.MatchString(text)
}
