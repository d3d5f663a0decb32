package providers

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A test goes to the hosts of the provider's alone, whatever a stored credential holds.
func TestTestsStayOnTheirHosts(t *testing.T) {
	c, now := load(t), time.Date(2026, 11, 29, 12, 30, 0, 0, time.UTC)
	test := func(slug, secret string) (*http.Request, error) {
		p := lookup(t, c, slug)
		credential, err := p.Credential(secret, now)
		require.NoError(t, err, secret)
		got, err := p.NewTest(t.Context(), secret, credential, now)
		return got.Request, err
	}
	robot := func(project string) string {
		return fmt.Sprintf(`{"type":"service_account","project_id":%q,"private_key":%q,"client_email":"r@p.iam.gserviceaccount.com","token_uri":"https://evil.example"}`,
			project, privateKey(t))
	}
	for secret, want := range map[[2]string]string{
		{"openai", lookup(t, c, "openai").Example}:                     "https://api.openai.com/v1/models",
		{"bedrock", `{"api_key":"ABSK-EXAMPLE","region":"eu-west-1"}`}: "https://bedrock.eu-west-1.amazonaws.com/foundation-models",
		{"bedrock", lookup(t, c, "bedrock").Example}:                   "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
		{"vertex", robot("example-project")}:                           "https://aiplatform.googleapis.com/v1/projects/example-project/locations?pageSize=1",
		{"vertexanthropic", robot("example.com:legacy")}:               "https://aiplatform.googleapis.com/v1/projects/example.com:legacy/locations?pageSize=1",
	} {
		r, err := test(secret[0], secret[1])
		require.NoError(t, err, want)
		require.Equal(t, want, r.URL.String())
		require.Equal(t, r.URL.Host, r.Host)
	}
	for _, project := range []string{"..", "a/b", "a?b", "a%2fb"} {
		_, err := test("vertex", robot(project))
		require.ErrorIs(t, err, ErrCredential, project)
	}
}

func TestTestsAreSignedAsByAWS(t *testing.T) {
	bedrock, at := lookup(t, load(t), "bedrock"), time.Date(2026, 11, 29, 12, 30, 0, 0, time.UTC)
	for _, session := range []string{"", "IQoJ/fake+=="} {
		secret := fmt.Sprintf(
			`{"access_key_id":"AKIDEXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY","region":"eu-west-1","session_token":%q}`, session)
		credential, err := bedrock.Credential(secret, at)
		require.NoError(t, err)
		got, err := bedrock.NewTest(t.Context(), secret, credential, at)
		require.NoError(t, err)
		r := got.Request
		require.Equal(t, signByBotocore(t, r, "sts", session, at, 0), r.Header.Get("Authorization"))
		require.Equal(t, session, r.Header.Get("X-Amz-Security-Token"))
		require.Equal(t, "20261129T123000Z", r.Header.Get("X-Amz-Date"))
	}
}
