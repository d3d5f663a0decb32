package providers

import (
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
}

// grant returns the request for a token of an application in Microsoft Entra
// (learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow). What the credential's values must look like is
// checked again, so that a stored one can't change the path of the request.
func (p Provider) grant(c Cloud, field func(name string) string) (*Grant, error) {
	tenant, client, password := field("tenant_id"), field("client_id"), field("client_secret")
	if tenant == "" || client == "" || password == "" {
		return nil, ErrCredential
	}
	for _, f := range p.Fields {
		if value := field(f.Name); value != "" && !f.matches(value) {
			return nil, ErrCredential
		}
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
