package awsroles

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/providers"
)

const (
	ours   = "AKIAEXAMPLEOURS"
	secret = "EXAMPLE/OUR/SECRET/EXAMPLE"
)

// isSigned reports whether a request has the signature of our credential.
func isSigned(r *http.Request, body []byte) bool {
	given := r.Header.Get("Authorization")
	_, names, _ := strings.Cut(given, "SignedHeaders=")
	names, _, _ = strings.Cut(names, ",")
	again := &http.Request{Method: r.Method, Host: r.Host, URL: &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path}, Header: http.Header{}, ContentLength: r.ContentLength}
	for name := range strings.SplitSeq(names, ";") {
		if name != "host" && name != "content-length" {
			again.Header.Set(name, r.Header.Get(name))
		}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return false
	}
	sum := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: ours, SecretAccessKey: secret}, again, hex.EncodeToString(sum[:]), "sts", role.Region, at)
	return err == nil && again.Header.Get("Authorization") == given
}

// start returns a Roles that sends its requests to a double of AWS's token service. The double accepts only signed
// requests, and answer answers them.
func start(t *testing.T, answer func(form url.Values) (status int, body string)) *Roles {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, err := url.ParseQuery(string(body))
		if err != nil || !isSigned(r, body) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, refusal("SignatureDoesNotMatch"))
			return
		}
		status, document := answer(form)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, document)
	}))
	t.Cleanup(server.Close)
	none := filepath.Join(t.TempDir(), "none")
	require.NoError(t, os.WriteFile(none, nil, 0o600))
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": ours, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_ENDPOINT_URL_STS": server.URL,
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	roles, err := New(t.Context())
	require.NoError(t, err)
	return roles
}

func refusal(code string) string {
	return `<ErrorResponse><Error><Type>Sender</Type><Code>` + code + `</Code><Message>User: arn:aws:iam::1:user/ours</Message></Error></ErrorResponse>`
}

func session(until time.Time) string {
	return `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
		<AccessKeyId>ASIAEXAMPLESESSION</AccessKeyId><SecretAccessKey>EXAMPLE/SESSION/SECRET</SecretAccessKey>
		<SessionToken>EXAMPLE-SESSION-TOKEN</SessionToken><Expiration>` + until.UTC().Format(time.RFC3339) + `</Expiration>
		</Credentials></AssumeRoleResult></AssumeRoleResponse>`
}

var role = providers.Role{ARN: "arn:aws:iam::123456789012:role/bedrock", Region: "eu-west-1", ExternalID: "aikeys:acme", Session: "byok_1"}

func TestARoleIsAssumedWithTheCustomersID(t *testing.T) {
	var asked []url.Values
	until := time.Now().Add(30 * time.Minute)
	roles := start(t, func(form url.Values) (int, string) {
		asked = append(asked, form)
		if form.Get("ExternalId") != "aikeys:acme" {
			return http.StatusForbidden, refusal("AccessDenied")
		}
		return http.StatusOK, session(until)
	})
	token, life, err := roles.Assume(t.Context(), role)
	require.NoError(t, err)
	require.InDelta(t, 30*time.Minute, life, float64(10*time.Second), "no longer than the session")
	presigned, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(token, "bedrock-api-key-"))
	require.NoError(t, err)
	require.Contains(t, string(presigned), "X-Amz-Credential=ASIAEXAMPLESESSION")
	require.Contains(t, string(presigned), "eu-west-1%2Fbedrock")
	require.NotContains(t, string(presigned)+token, "SESSION/SECRET")
	require.Len(t, asked, 2)
	require.False(t, asked[0].Has("ExternalId"), "a role that can be assumed without it is another's, perhaps")
	for _, form := range asked {
		require.Equal(t, []string{"AssumeRole", role.ARN, "byok_1", "3600", scope},
			[]string{form.Get("Action"), form.Get("RoleArn"), form.Get("RoleSessionName"), form.Get("DurationSeconds"), form.Get("Policy")})
	}
}

// A role that can be assumed without an external id is refused. Otherwise any customer could name the operator's own
// roles, and the roles of others who trust the service without a condition.
func TestARoleThatAnyoneMayNameIsRefused(t *testing.T) {
	roles := start(t, func(url.Values) (int, string) { return http.StatusOK, session(time.Now().Add(time.Hour)) })
	_, _, err := roles.Assume(t.Context(), role)
	require.ErrorIs(t, err, exchange.ErrOpenRole)
	require.ErrorIs(t, err, exchange.ErrRefused)
	nobodys := role
	nobodys.ExternalID = ""
	_, _, err = roles.Assume(t.Context(), nobodys)
	require.ErrorIs(t, err, exchange.ErrRefused)
}

func TestRefusalsOfRoles(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"not ours to assume":   {403, refusal("AccessDenied"), exchange.ErrRefused},
		"no role":              {400, refusal("ValidationError"), exchange.ErrRefused},
		"our identity is gone": {403, refusal("InvalidClientTokenId"), exchange.ErrUnavailable},
		"our session is over":  {403, refusal("ExpiredToken"), exchange.ErrUnavailable},
		"too many":             {400, refusal("Throttling"), exchange.ErrUnavailable},
		"broken":               {503, `<html>`, exchange.ErrUnavailable},
		"a proxy's answer":     {403, `<html>`, exchange.ErrUnavailable},
		"no credentials":       {200, `<AssumeRoleResponse></AssumeRoleResponse>`, exchange.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			roles := start(t, func(url.Values) (int, string) { return test.status, test.body })
			_, _, err := roles.Assume(t.Context(), role)
			require.ErrorIs(t, err, test.want)
			require.NotContains(t, err.Error(), "user/ours")
		})
	}
	roles := start(t, func(url.Values) (int, string) { return http.StatusOK, session(time.Now().Add(time.Hour)) })
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := roles.Assume(cancelled, role)
	require.ErrorIs(t, err, exchange.ErrUnavailable)
}
