package providers

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/agentrouter/aikeys/internal/keytests"
	"github.com/agentrouter/aikeys/internal/verdict"
)

// Verify is a request that only a good key may make, and that costs nothing.
type Verify struct {
	Method  string            `yaml:"method"` // empty is GET
	Host    string            `yaml:"host"`   // empty is the base URL's; {name} stands for the credential's field
	Path    string            `yaml:"path"`   // with a query; {name} stands for the credential's field
	Headers map[string]string `yaml:"headers"`
	Body    string            `yaml:"body"` // JSON; empty for none
	// Answers are the rules that come before the provider's.
	Answers verdict.Rules `yaml:"answers"`
	// Signed is the test request that is signed with the credential; only providers with AuthAWSSigV4 have one. Service
	// is the AWS service that such a request is signed for; it is empty in all other requests.
	Signed  *Verify `yaml:"signed"`
	Service string  `yaml:"service"`
}

var (
	verifyPath = regexp.MustCompile(`^/([A-Za-z0-9_{}-]+(/[A-Za-z0-9_{}-]+)*)?(\?[A-Za-z0-9=&.-]+)?$`)
	verifyHost = regexp.MustCompile(`^[a-z0-9{}-]+(\.[a-z0-9{}-]+)+$`)
	// pathFieldPattern matches the values that a credential's field may have in the path of a request.
	pathFieldPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.:_-]*$`)
)

// validateVerify checks the requests that test the provider's keys.
func (p Provider) validateVerify() error {
	switch {
	case p.Verify == nil:
		return nil
	case p.Verify.Service != "" || (p.Verify.Signed != nil) != (p.AuthStyle == AuthAWSSigV4):
		return errors.New("verify has a signed request for aws_sigv4, and for nothing else")
	case p.Verify.Signed != nil && (p.Verify.Signed.Service == "" || p.Verify.Signed.Signed != nil || p.Verify.Signed.Body != ""):
		return errors.New("a signed request of verify has a service, and no body")
	}
	return errors.Join(p.Verify.validate(p), p.Verify.Signed.validate(p))
}

func (v *Verify) validate(p Provider) error {
	if v == nil {
		return nil
	}
	for _, field := range placeholderPattern.FindAllStringSubmatch(v.Host+v.Path, -1) {
		if !p.isRequired(field[1]) {
			return fmt.Errorf("verify names %q, which is not a required field", field[1])
		}
	}
	switch {
	case !verifyPath.MatchString(v.Path) || v.Host != "" && !verifyHost.MatchString(v.Host):
		return errors.New("verify's path or host is not plain")
	case v.Method != "" && v.Method != http.MethodPost || (v.Method == http.MethodPost) != (v.Body != ""):
		return errors.New("verify is a GET, or a POST with a body")
	}
	return v.Answers.Validate()
}

// NewTest returns the test of a secret. c is the result of Credential for the secret. The test for a custom provider
// also tries a made-up key, because many such servers accept any key. The error is ErrCredential.
func (p Provider) NewTest(ctx context.Context, secret string, c Credential, now time.Time) (keytests.Test, error) {
	r, err := p.newRequest(ctx, secret, c, now)
	if err != nil {
		return keytests.Test{}, err
	}
	test := keytests.Test{Request: r, Rules: slices.Concat(p.Verify.testOf(c).Answers, p.Answers), Signed: c.Life > 0}
	if p.Destination != "" {
		c.Secret = makeUpKey(c.Secret)
		test.MadeUp = r.Header.Clone()
		err = p.authorize(test.MadeUp, c)
	}
	return test, err
}

// makeUpKey returns a key that does not exist. It has the length of another key, and its prefix sk-, if any.
func makeUpKey(like string) string {
	const prefix = "sk-"
	madeUp := rand.Text() // 26 letters and digits
	for len(madeUp) < len(like) {
		madeUp += rand.Text()
	}
	madeUp = madeUp[:max(len(like), len(prefix))]
	if strings.HasPrefix(like, prefix) {
		madeUp = prefix + madeUp[len(prefix):]
	}
	return madeUp
}

// testOf returns the request that tests a credential.
func (v *Verify) testOf(c Credential) *Verify {
	if c.Style == AuthAWSSigV4 {
		return v.Signed
	}
	return v
}

// newRequest returns the request of a test.
func (p Provider) newRequest(ctx context.Context, secret string, c Credential, now time.Time) (*http.Request, error) {
	test := p.Verify.testOf(c)
	members, _ := readMembers(secret) // a secret that is not a JSON object has no fields
	field := fieldsOf(members)
	base, err := url.Parse(c.BaseURL)
	if err != nil {
		return nil, ErrCredential
	}
	target := url.URL{Scheme: base.Scheme, Host: base.Host}
	path, query, _ := strings.Cut(test.Path, "?")
	target.RawQuery = query
	if test.Host != "" {
		if target.Host, err = fill(test.Host, hostLabelPattern, field); err != nil {
			return nil, err
		}
	}
	if target.Path, err = fill(path, pathFieldPattern, field); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, cmp.Or(test.Method, http.MethodGet), target.String(), strings.NewReader(test.Body))
	if err != nil {
		return nil, ErrCredential
	}
	r.Header.Set("User-Agent", "agentrouter-aikeys")
	r.Header.Set("Accept-Encoding", "identity")
	if test.Body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, value := range test.Headers {
		r.Header.Set(name, value)
	}
	if test.Service != "" {
		err = signAWS(r, test.Service, field, now)
	} else {
		err = p.authorize(r.Header, c)
	}
	return r, err
}

// fill replaces the names in braces by fields of a credential. Each field must match.
func fill(text string, each *regexp.Regexp, field func(name string) string) (string, error) {
	for _, name := range placeholderPattern.FindAllStringSubmatch(text, -1) {
		value := field(name[1])
		if !each.MatchString(value) {
			return "", ErrCredential
		}
		text = strings.ReplaceAll(text, name[0], value)
	}
	return text, nil
}

// authorize sets the key or token in the header that the provider expects.
func (p Provider) authorize(h http.Header, c Credential) error {
	switch c.Style {
	case AuthBearer, AuthGCPOAuth:
		h.Set("Authorization", "Bearer "+c.Secret)
	case AuthXAPIKey:
		h.Set("X-Api-Key", c.Secret)
	case AuthXGoogAPIKey:
		h.Set("X-Goog-Api-Key", c.Secret)
	case AuthAPIKey:
		h.Set("Api-Key", c.Secret)
	case AuthHeader:
		h.Set(p.Header, c.Secret)
	case AuthAWSSigV4, AuthAzureEntra, AuthNone:
		return ErrCredential
	}
	return nil
}

// signAWS signs a request without a body with an access key.
func signAWS(r *http.Request, service string, field func(name string) string, now time.Time) error {
	err := v4.NewSigner().SignHTTP(r.Context(), accessKey(field), r, emptyBody, service, field("region"), now)
	if err != nil {
		return ErrCannotSign // the error may quote the credential
	}
	return nil
}

// accessKey returns the access key of a credential.
func accessKey(field func(name string) string) aws.Credentials {
	return aws.Credentials{
		AccessKeyID: field("access_key_id"), SecretAccessKey: field("secret_access_key"), SessionToken: field("session_token"),
	}
}
