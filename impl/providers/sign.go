package providers

import (
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/agentrouter/aikeys/internal/secret"
)

// bedrockLife and googleLife are how long signed tokens are valid. A data plane fetches a new one when most of the time has passed.
const (
	bedrockLife = time.Hour
	googleLife  = 15 * time.Minute
	// clockSkew is how far this clock may be ahead of Google's. Google takes no token from the future.
	clockSkew = 10 * time.Second
	// maxPrivateKey is the maximum length of a private key in DER. It is enough for 4096 bits, Google's maximum. Each
	// fetch signs, and a key of twice the bits takes eight times as long.
	maxPrivateKey = 2500
)

// emptyBody is the SHA-256 of a body without bytes.
const emptyBody = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// ErrCannotSign says that a credential can't sign a token, for example because its private key was cut off. The error
// holds no part of the credential.
var ErrCannotSign = fmt.Errorf("%w: it can't sign", ErrCredential)

// signs reports whether the provider takes a token that is signed with the credential, instead of a part of the
// credential.
func (p Provider) signs() bool { return p.AuthStyle == AuthAWSSigV4 || p.AuthStyle == AuthGCPOAuth }

// sign returns a token for the provider and how long it is valid, or ErrCannotSign. It sends nothing.
func (p Provider) sign(field func(name string) string, now time.Time) (token string, life time.Duration, err error) {
	if p.AuthStyle == AuthGCPOAuth {
		token, err = signGoogleJWT(field, now)
		return token, googleLife, err
	}
	token, err = SignBedrockKey(accessKey(field), field("region"), now)
	return token, bedrockLife, err
}

// SignBedrockKey returns a short-term Bedrock API key: a presigned URL of the action CallWithBearerToken, in base64.
// The key is valid for an hour, or until the credentials expire if that is sooner. SignBedrockKey follows AWS's own
// generator (github.com/aws/aws-bedrock-token-generator-python).
func SignBedrockKey(credentials aws.Credentials, region string, now time.Time) (string, error) {
	if credentials.AccessKeyID == "" || credentials.SecretAccessKey == "" || region == "" {
		return "", ErrCannotSign
	}
	query := url.Values{"Action": {"CallWithBearerToken"}, "X-Amz-Expires": {strconv.Itoa(int(bedrockLife.Seconds()))}}
	request := &http.Request{
		Method: http.MethodPost, Host: "bedrock.amazonaws.com", Header: http.Header{},
		URL: &url.URL{Scheme: "https", Host: "bedrock.amazonaws.com", Path: "/", RawQuery: query.Encode()},
	}
	signed, _, err := v4.NewSigner().PresignHTTP(context.Background(), credentials, request, emptyBody, "bedrock", region, now)
	if err != nil {
		return "", ErrCannotSign // the error may quote the credential
	}
	return "bedrock-api-key-" + base64.StdEncoding.EncodeToString([]byte(strings.TrimPrefix(signed, "https://")+"&Version=1")), nil
}

// signGoogleJWT returns a self-signed JWT, which Google's APIs accept instead of an access token
// (google.aip.dev/auth/4111). It uses only the members private_key, private_key_id and client_email of a key file. It
// ignores the file's URLs, because they could lead anywhere.
func signGoogleJWT(field func(name string) string, now time.Time) (string, error) {
	key, err := parsePrivateKey(field("private_key"))
	email := field("client_email")
	if err != nil || email == "" {
		return "", ErrCannotSign
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: field("private_key_id")}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", ErrCannotSign
	}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: email, Subject: email, IssuedAt: jwt.NewNumericDate(now.Add(-clockSkew)), Expiry: jwt.NewNumericDate(now.Add(googleLife)),
	}).Claims(map[string]any{"scope": "https://www.googleapis.com/auth/cloud-platform"}).Serialize()
	if err != nil {
		return "", ErrCannotSign
	}
	return token, nil
}

// parsePrivateKey reads an RSA key in PEM, as PKCS #8 or PKCS #1.
func parsePrivateKey(text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || len(block.Bytes) > maxPrivateKey {
		return nil, ErrCannotSign
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if key, ok := key.(*rsa.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, ErrCannotSign
}

// Grant is a request to a token service, which exchanges a credential for a token. It prints without the credential.
type Grant struct {
	// URL is the service's. Its host comes from the catalogue, never from a credential.
	URL string
	// Form is the request's body, as application/x-www-form-urlencoded.
	Form secret.Text
	// Role is the role to assume instead of a request to URL; nil if there is a request.
	Role *Role
}

// Role is a role in a customer's AWS account, which the service assumes for them.
type Role struct {
	ARN, Region string
	// ExternalID is the customer's external id, which the role's trust policy must require. Session names the key for
	// which the role is assumed.
	ExternalID, Session string
}

// fieldRole is the field with a role's name.
const fieldRole = "role_arn"

// ExternalID returns the external id with which roles are assumed for a customer. It is no secret: it keeps one customer from naming
// another's role (docs.aws.amazon.com/IAM/latest/UserGuide/confused-deputy.html).
func ExternalID(customerID string) string { return "aikeys:" + customerID }

// SetHolder sets the customer and the key that a credential belongs to; keyID is empty before the key exists. A role is
// assumed only for its own customer.
func (c *Credential) SetHolder(customerID, keyID string) {
	if c.Grant != nil && c.Grant.Role != nil {
		c.Grant.Role.ExternalID, c.Grant.Role.Session = ExternalID(customerID), cmp.Or(keyID, "aikeys-verification")
	}
}

// grantOfRole returns the Grant of a credential that names a role.
func (p Provider) grantOfRole(field func(name string) string) (*Grant, error) {
	return &Grant{Role: &Role{ARN: field(fieldRole), Region: field("region")}}, p.checkFields(field)
}

// checkFields repeats the checks of registration for a stored credential, so that a changed value can't name another
// role or change the path of a request.
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
