package providers

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"
)

var newRSAKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// privateKey returns the PEM of an RSA key, the same for all tests.
func privateKey(t testing.TB) string {
	key, err := newRSAKey()
	require.NoError(t, err)
	return pemOf(t, key)
}

func ecKey(t testing.TB) crypto.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func pemOf(t testing.TB, key crypto.PrivateKey) string {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// signByBotocore makes AWS's own library sign a request with the credential of the tests, and returns the output of
// tools/peers/sign.py. If seconds is not 0, it signs the URL.
func signByBotocore(t *testing.T, r *http.Request, service, session string, at time.Time, seconds int) string {
	headers := map[string]string{"host": r.URL.Host}
	for name := range r.Header {
		if name != "Authorization" && !strings.HasPrefix(name, "X-Amz-") {
			headers[name] = r.Header.Get(name)
		}
	}
	asked, err := json.Marshal(map[string]any{
		"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session_token": session, "region": "eu-west-1",
		"service": service, "at": at.Format("2006-01-02T15:04:05"), "method": r.Method, "url": r.URL.String(), "headers": headers, "seconds": seconds,
	})
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "../../tools/peers/.venv/bin/python", "-B", "../../tools/peers/sign.py")
	cmd.Stdin = bytes.NewReader(asked)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	printed, err := cmd.Output()
	require.NoError(t, err, "`make test` installs botocore: %s", &stderr)
	return strings.TrimSpace(string(printed))
}

func TestBedrockKeyIsSignedAsByAWS(t *testing.T) {
	bedrock, at := lookup(t, load(t), "bedrock"), time.Date(2026, 11, 29, 12, 30, 0, 0, time.UTC)
	for _, session := range []string{"", "IQoJ/fake+=="} {
		got, err := bedrock.Credential(fmt.Sprintf(
			`{"access_key_id":"AKIDEXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY","region":"eu-west-1","session_token":%q}`,
			session), at)
		require.NoError(t, err)
		packed, ok := strings.CutPrefix(got.Secret, "bedrock-api-key-")
		require.True(t, ok)
		text, err := base64.StdEncoding.DecodeString(packed)
		require.NoError(t, err)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://bedrock.amazonaws.com/?Action=CallWithBearerToken", http.NoBody)
		require.NoError(t, err)
		want, err := url.Parse(signByBotocore(t, request, "bedrock", session, at, 3600))
		require.NoError(t, err)
		signed, err := url.Parse("https://" + string(text))
		require.NoError(t, err)
		query := want.Query()
		query.Set("Version", "1") // AWS's own generator appends it to the signed URL
		require.Equal(t, query, signed.Query())
		require.Equal(t, session, query.Get("X-Amz-Security-Token"))
		require.Equal(t, "bedrock.amazonaws.com/", signed.Host+signed.Path)
	}
}

func TestBedrockAPIKeyIsSentAsItIs(t *testing.T) {
	got, err := lookup(t, load(t), "bedrock").Credential(`{"api_key":"ABSK-EXAMPLE","region":"us-east-1"}`, time.Now())
	require.NoError(t, err)
	require.Equal(t, Credential{
		BaseURL: "https://bedrock-runtime.us-east-1.amazonaws.com", Secret: "ABSK-EXAMPLE", Style: AuthBearer,
	}, got)
}

func TestGoogleTokenNamesTheServiceAccountAlone(t *testing.T) {
	vertex, now := lookup(t, load(t), "vertex"), time.Now().Truncate(time.Second)
	got, err := vertex.Credential(fmt.Sprintf(`{"type":"service_account","project_id":"p","private_key_id":"k1","private_key":%q,
		"client_email":"robot@p.iam.gserviceaccount.com","token_uri":"https://evil.example/token","universe_domain":"evil.example"}`, privateKey(t)), now)
	require.NoError(t, err)
	require.Equal(t, "https://aiplatform.googleapis.com/v1", got.BaseURL)
	token, err := jwt.ParseSigned(got.Secret, []jose.SignatureAlgorithm{jose.RS256})
	require.NoError(t, err)
	require.Equal(t, "k1", token.Headers[0].KeyID)
	key, err := newRSAKey()
	require.NoError(t, err)
	claims := map[string]any{}
	require.NoError(t, token.Claims(key.Public(), &claims))
	require.Equal(t, map[string]any{
		"iss": "robot@p.iam.gserviceaccount.com", "sub": "robot@p.iam.gserviceaccount.com", "scope": "https://www.googleapis.com/auth/cloud-platform",
		"iat": float64(now.Unix()) - 10, "exp": float64(now.Add(15 * time.Minute).Unix()),
	}, claims)
}

// With a key of many thousand bits, each fetch would take seconds.
func TestLargePrivateKeysDoNotSign(t *testing.T) {
	vertex := lookup(t, load(t), "vertex")
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	sign := func(der []byte) error {
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		_, err := vertex.Credential(withMember(t, vertex, "private_key", fmt.Sprintf("%q", text)), time.Now())
		return err
	}
	require.NoError(t, sign(der))
	require.ErrorIs(t, sign(append(der, make([]byte, maxPrivateKey)...)), ErrCannotSign, "which would be parsed otherwise")
}

func BenchmarkSign(b *testing.B) {
	c := load(b)
	for slug, credential := range map[string]string{
		"bedrock": lookup(b, c, "bedrock").Example,
		"vertex":  withMember(b, lookup(b, c, "vertex"), "private_key", fmt.Sprintf("%q", privateKey(b))),
	} {
		b.Run(slug, func(b *testing.B) {
			for b.Loop() {
				if _, err := lookup(b, c, slug).Credential(credential, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A private key that can't sign is refused when it is registered, rather than at each request.
func TestPrivateKeysThatCannotSignAreRefused(t *testing.T) {
	c := load(t)
	vertex := lookup(t, c, "vertex")
	key, err := newRSAKey()
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	inPEM := func(der []byte) string {
		return withMember(t, vertex, "private_key", strconv.Quote(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))))
	}
	require.NoError(t, c.CheckSecret(vertex, inPEM(der)))
	require.NoError(t, c.CheckSecret(vertex, inPEM(x509.MarshalPKCS1PrivateKey(key))))
	require.Contains(t, refusal(t, c, vertex, inPEM(make([]byte, 4700))), "private_key is longer than an RSA key of 4096 bits", "as one of 8192 is")
	require.Contains(t, refusal(t, c, vertex, inPEM(der[:len(der)-10])), "private_key is not an RSA key, or was cut off")
	require.Contains(t, refusal(t, c, vertex, withMember(t, vertex, "private_key", strconv.Quote(pemOf(t, ecKey(t))))), "private_key is not an RSA key")
}

func TestAzureEndpointDecidesTheHostAndTheCloud(t *testing.T) {
	azure := lookup(t, load(t), "azure_openai")
	const public, government = "https://login.microsoftonline.com/t/oauth2/v2.0/token", "https://login.microsoftonline.us/t/oauth2/v2.0/token"
	for endpoint, authority := range map[string]string{
		"https://r.openai.azure.com": public, "https://r.openai.azure.com/": public, "https://R.Services.AI.azure.com/": public,
		"https://r-1.cognitiveservices.azure.com/": public, "https://r.openai.azure.us/": government, "https://r.services.ai.azure.us": government,
		"https://r.cognitiveservices.azure.us": government,
	} {
		host, _, ok := azure.endpointHost(endpoint)
		require.True(t, ok, endpoint)
		for _, cloudless := range []string{`"api_key": "EXAMPLEEXAMPLEEXAMPLE"`, `"tenant_id": "t", "client_id": "c", "client_secret": "s&scope=evil"`} {
			document := fmt.Sprintf(`{"endpoint": %q, %s}`, endpoint, cloudless)
			require.Empty(t, refusal(t, load(t), azure, document))
			got, err := azure.Credential(document, time.Now())
			require.NoError(t, err)
			require.Equal(t, "https://"+host, got.BaseURL)
			if got.Grant == nil {
				require.Equal(t, Credential{BaseURL: "https://" + host, Secret: "EXAMPLEEXAMPLEEXAMPLE", Style: AuthAPIKey}, got)
				continue
			}
			require.Empty(t, got.Secret)
			require.Equal(t, authority, got.Grant.URL)
			form, err := url.ParseQuery(got.Grant.Form.Reveal())
			require.NoError(t, err)
			scope := map[string]string{public: "https://cognitiveservices.azure.com/.default", government: "https://cognitiveservices.azure.us/.default"}
			require.Equal(t, url.Values{
				"grant_type": {"client_credentials"}, "client_id": {"c"}, "client_secret": {"s&scope=evil"}, "scope": {scope[authority]},
			}, form)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v", got.Grant, *got.Grant, got), "evil")
		}
	}
}
