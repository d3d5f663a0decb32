package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// Whatever style a caller's credential comes in, the provider gets its own key in its own style, and noAnswer of the
// caller's.
func TestCredentialsAreReplacedByTheKey(t *testing.T) {
	callers := map[string]http.Header{
		"bearer":         {"Authorization": {"Bearer " + callersKey}},
		"bearer, spaced": {"Authorization": {" bearer   " + callersKey + " "}},
		"x-api-key":      {"X-Api-Key": {callersKey}},
		"x-goog-api-key": {"X-Goog-Api-Key": {callersKey}},
		"api-key":        {"Api-Key": {callersKey}},
		"all of them": {
			"Authorization": {"Bearer " + callersKey}, "X-Api-Key": {callersKey},
			"X-Goog-Api-Key": {callersKey}, "Api-Key": {callersKey},
		},
		"a signature with it as the access key id": {
			"Authorization":        {"AWS4-HMAC-SHA256 Credential=" + callersKey + "/20261129/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=0f"},
			"X-Amz-Date":           {"20261129T000000Z"},
			"X-Amz-Content-Sha256": {"0f"}, "X-Amz-Security-Token": {"t"},
		},
		"one, and others that are empty": {"Authorization": {"Bearer "}, "X-Api-Key": {callersKey}, "Api-Key": {""}},
	}
	providers := map[dataplane.AuthStyle][2]string{
		dataplane.AuthBearer:      {"Authorization", "Bearer " + secret},
		dataplane.AuthXAPIKey:     {"X-Api-Key", secret},
		dataplane.AuthXGoogAPIKey: {"X-Goog-Api-Key", secret},
		dataplane.AuthAPIKey:      {"Api-Key", secret},
	}
	for style, want := range providers {
		seen := make(chan http.Header, 1)
		base := provider(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
		gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", style, base, secret)))
		for name, header := range callers {
			t.Run(string(style)+" for "+name, func(t *testing.T) {
				r := request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}"))
				r.Header = header.Clone()
				res, body := do(t, r)
				require.Equal(t, 200, res.StatusCode, body)
				got := <-seen
				require.Equal(t, []string{want[1]}, got[want[0]])
				delete(got, want[0])
				for _, credential := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "X-Amz-Date", "X-Amz-Security-Token", "X-Amz-Content-Sha256"} {
					require.NotContains(t, got, credential)
				}
				requireUnmarked(t, fmt.Sprint(got), fmt.Sprint(res.Header), gw.log.String())
			})
		}
	}
}

func TestPrivateHeadersAreRemoved(t *testing.T) {
	seen := make(chan *http.Request, 1)
	gw := openAI(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	r := request(t, "POST", gw.URL+"/openai/chat?model=a&token="+callersKey, strings.NewReader("{}"))
	private := map[string]string{
		"Cookie": "a=b", "Forwarded": "for=1.2.3.4", "Via": "1.1 x", "X-Real-Ip": "1.2.3.4", "True-Client-Ip": "1.2.3.4", "Ocp-Apim-Subscription-Key": "x",
		"X-Original-Url": "/admin", "X-Rewrite-Url": "/admin",
		"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "x", "X-Forwarded-Port": "1", "X-Forwarded-Client-Cert": "x",
		"Agentrouter-Project": "chat", "Agentrouter-Anything": "x", "X-Copy-Of-Auth": "key " + callersKey,
		"Keep-Alive": "x", "X-Hop": "x", "Proxy-Authorization": "Basic x", "Connection": "X-Hop",
	}
	for name, value := range private {
		r.Header.Set(name, value)
	}
	r.Header.Set("Openai-Beta", "assistants=v2")
	r.Header.Set("Accept-Encoding", "br")
	res, body := do(t, r)
	require.Equal(t, 200, res.StatusCode, body)
	got := <-seen
	for name := range private {
		require.NotContains(t, got.Header, name)
	}
	require.Equal(t, "assistants=v2", got.Header.Get("Openai-Beta"))
	require.Equal(t, "identity", got.Header.Get("Accept-Encoding"), "answers are searched for the key")
	require.Equal(t, "Go-http-client/1.1", got.Header.Get("User-Agent"))
	require.Equal(t, "model=a", got.URL.RawQuery)
	require.NotContains(t, got.Host, strings.TrimPrefix(gw.URL, "http://"))
	require.Equal(t, "chat", gw.Requests()[0].ProjectID)
}

func TestGeminiKeyInTheQuery(t *testing.T) {
	seen := make(chan *http.Request, 1)
	base := provider(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	gw := start(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "gemini", dataplane.AuthXGoogAPIKey, base+"/v1beta", secret)))
	for _, query := range []string{"alt=sse&key=" + callersKey, "%6bey=" + callersKey + "&alt=sse", "alt=sse&key="} {
		r := request(t, "POST", gw.URL+"/gemini/v1beta/models/m:streamGenerateContent?"+query, strings.NewReader("{}"))
		if strings.Contains(query, callersKey) {
			r.Header.Del("Authorization")
		}
		res, body := do(t, r)
		require.Equal(t, 200, res.StatusCode, body)
		got := <-seen
		require.Equal(t, "alt=sse", got.URL.RawQuery)
		require.Equal(t, "/v1beta/models/m:streamGenerateContent", got.URL.Path)
		require.Equal(t, secret, got.Header.Get("X-Goog-Api-Key"))
	}
}

func TestResponseHeaders(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"Set-Cookie", "Alt-Svc", "Strict-Transport-Security"} {
			w.Header().Set(name, "x=y")
		}
		w.Header().Set("X-Request-Id", "req_theirs")
		w.Header().Set("Agentrouter-Key-Id", "forged")
		w.WriteHeader(http.StatusTeapot)
	})
	res, _ := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	require.Equal(t, http.StatusTeapot, res.StatusCode)
	for _, name := range []string{"Set-Cookie", "Alt-Svc", "Strict-Transport-Security"} {
		require.NotContains(t, res.Header, name)
	}
	require.Equal(t, "req_theirs", res.Header.Get("X-Request-Id"))
	require.Equal(t, []string{dataplanetest.NewKeyID}, res.Header["Agentrouter-Key-Id"])
	require.Equal(t, "project_key", res.Header.Get("Agentrouter-Reason"))
	require.Len(t, res.Header.Get("Agentrouter-Request-Id"), 26)
}

// net/http merges the trailers into the request after its head was passed on.
func TestTrailers(t *testing.T) {
	seen := make(chan http.Header, 1)
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Digest")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen <- r.Trailer
		_, _ = w.Write(body)
		w.Header().Set("X-Digest", "theirs")
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(gw.URL, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "POST /openai/chat HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n"+
		"Trailer: X-Mine\r\n\r\n2\r\n{}\r\n0\r\nX-Mine: 1\r\nX-Api-Key: %s\r\n\r\n", callersKey, callersKey)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	_, body := read(t, res)
	require.Equal(t, "{}", body)
	require.Equal(t, http.Header{"X-Digest": {"theirs"}}, res.Trailer)
	require.Equal(t, http.Header{"X-Mine": {"1"}}, <-seen)
}
