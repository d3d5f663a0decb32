package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// restrictedGateway starts a gateway before one provider, with a key that is restricted. Bodies that arrive whole are sent to the channel.
func restrictedGateway(t *testing.T, provider0, base string, allowed dataplane.Restrictions) (g *testGateway, arrived chan string) {
	t.Helper()
	arrived = make(chan string, 100)
	upstream := provider(t, func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			arrived <- string(body)
		}
	})
	key := newKey(t, provider0, upstream+base)
	key.Restrictions = &allowed
	return start(t, dataplanetest.Serving(callersKey, key)), arrived
}

func TestAKeyServesTheModelsItIsRestrictedTo(t *testing.T) {
	const json = "application/json"
	for _, test := range []struct {
		provider, base, path, contentType, body string
		status                                  int
	}{
		{"openai", "/v1", "/chat/completions", json, `{"model":"gpt-4o-mini","messages":[]}`, 200},
		{"openai", "/v1", "/chat/completions", json + "; charset=UTF-8", `{"messages":["` + strings.Repeat("x", 60_000) + `"],"model":"gpt-4o-mini"}`, 200},
		{"openai", "/v1", "/chat/completions", json, `{"model":"gpt-4o-mini","messages":["` + strings.Repeat("x", 1_000_000) + `"]}`, 200},
		{"openai", "/v1", "/v1/responses", json, `{"model":"o-anything"}`, 200},
		{"openai", "/v1", "/chat/completions", json, `{"model":"gpt-4o"}`, 403},
		{"openai", "/v1", "/chat/completions", json, `{"messages":["` + strings.Repeat("x", 70_000) + `"],"model":"gpt-4o-mini"}`, 403},
		{"openai", "/v1", "/chat/completions", json, `{"model":"gpt-4o-mini","model":"gpt-4o"}`, 403},
		{"openai", "/v1", "/chat/completions", json, `{"model":"gpt-4o-mini","a":"` + strings.Repeat("x", 1_000_000) + `","model":"gpt-4o"}`, 403},
		{"openai", "/v1", "/chat/completions", json, `{"messages":[]}`, 403},
		{"openai", "/v1", "/chat/completions", json, ``, 403},
		{"openai", "/v1", "/chat/completions", json + "; charset=utf-16", `{"model":"gpt-4o-mini"}`, 403},
		{"openai", "/v1", "/chat/completions?model=gpt-4o", json, `{"model":"gpt-4o-mini"}`, 403},
		{"openai", "/v1", "/chat/completions", "text/plain", `{"model":"gpt-4o-mini"}`, 403},
		{"openai", "/v1", "/audio/transcriptions", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-4o-mini\r\n--b--\r\n", 403},
		{"openai", "/v1", "/batches", json, `{"model":"gpt-4o-mini","input_file_id":"f"}`, 403},
		{"openai", "/v1", "/files", json, `{"model":"gpt-4o-mini"}`, 403},
		{"openai", "/v1", "/models", json, ``, 403},
		{"anthropic", "", "/v1/messages", json, `{"model":"gpt-4o-mini"}`, 200},
		{"anthropic", "", "/v1/messages/batches", json, `{"model":"gpt-4o-mini","requests":[]}`, 403},
		{"gemini", "/v1beta", "/v1beta/models/gpt-4o-mini:streamGenerateContent", json, `{}`, 200},
		{"gemini", "/v1beta", "/models/gpt-4o:generateContent", json, `{"model":"gpt-4o-mini"}`, 403},
		{"gemini", "/v1beta", "/models/gpt-4o-mini:batchGenerateContent", json, `{}`, 403},
		{"gemini", "/v1beta", "/models/gpt-4o-mini:asyncBatchEmbedContent", json, `{}`, 403},
		{"gemini", "/v1beta", "/v1beta/openai/chat/completions", json, `{"model":"models/gpt-4o-mini"}`, 200},
		{"bedrock", "", "/model/o-us.anthropic%3A0/converse", json, `{}`, 200},
		{"bedrock", "", "/model/amazon.titan/converse", json, `{}`, 403},
		{"bedrock", "", "/async-invoke", json, `{"model":"gpt-4o-mini"}`, 403},
		{"vertex", "/v1", "/projects/p/locations/eu/publishers/google/models/gpt-4o-mini:generateContent", json, `{}`, 200},
		{"vertex", "/v1", "/projects/p/locations/eu/publishers/google/models/gemini:generateContent", json, `{}`, 403},
		{"vertex", "/v1", "/projects/p/locations/eu/endpoints/7:predict", json, `{}`, 403},
		{"azure_openai", "", "/openai/deployments/gpt-4o-mini/chat/completions", json, `{}`, 200},
		{"azure_openai", "", "/openai/deployments/gpt-4o/chat/completions", json, `{"model":"gpt-4o-mini"}`, 403},
		{"azure_openai", "", "/openai/v1/responses", json, `{"model":"gpt-4o-mini"}`, 200},
	} {
		g, arrived := restrictedGateway(t, test.provider, test.base, dataplane.Restrictions{Models: []string{"gpt-4o-mini", "o-*"}})
		r := request(t, http.MethodPost, g.URL+"/"+test.provider+test.path, strings.NewReader(test.body))
		r.Header.Set("Content-Type", test.contentType)
		head, body := do(t, r)
		name := test.provider + test.path + " " + test.body[:min(60, len(test.body))]
		require.Equal(t, test.status, head.StatusCode, "%s: %s", name, body)
		if test.status == http.StatusOK {
			require.Equal(t, test.body, <-arrived, name)
		} else {
			require.Contains(t, body, "key", name)
			require.Empty(t, arrived, name)
		}
	}
}

func TestRefusedModelsAreSaidInTheDialectOfTheAPI(t *testing.T) {
	g, _ := restrictedGateway(t, "anthropic", "", dataplane.Restrictions{Models: []string{"claude-*"}})
	r := request(t, http.MethodPost, g.URL+"/anthropic/v1/messages", strings.NewReader(`{"model":"other"}`))
	r.Header.Set("Content-Type", "application/json")
	head, body := do(t, r)
	require.Equal(t, http.StatusForbidden, head.StatusCode)
	require.Contains(t, body, `"permission_error"`)
	require.Contains(t, body, "/problems/key-restricted")
	require.NotContains(t, body, "other")

	packed := request(t, http.MethodPost, g.URL+"/anthropic/v1/messages", strings.NewReader(`{"model":"claude-x"}`))
	packed.Header.Set("Content-Type", "application/json")
	packed.Header.Set("Content-Encoding", "gzip")
	head, _ = do(t, packed)
	require.Equal(t, http.StatusForbidden, head.StatusCode)

	socket := request(t, http.MethodGet, g.URL+"/anthropic/v1/messages", http.NoBody)
	socket.Header.Set("Connection", "Upgrade")
	socket.Header.Set("Upgrade", "websocket")
	head, _ = do(t, socket)
	require.Equal(t, http.StatusForbidden, head.StatusCode)
}

func TestAKeyServesTheOperationsItIsRestrictedTo(t *testing.T) {
	for path, status := range map[string]int{
		"/chat/completions": 200, "/v1/chat/completions": 200, "/chat/completions/x": 200, "/fine/job/cancel": 200,
		"/chat": 403, "/chat/completionsx": 403, "/Chat/completions": 403, "/ch%61t/completions": 403, "/chat;a=b/completions": 403,
		"/x/chat/completions": 403, "/fine//cancel": 400, "/fine/job": 403, "/models/m:embed": 200, "/models/m:generate": 403,
	} {
		g, _ := restrictedGateway(t, "openai", "/v1", dataplane.Restrictions{Operations: []string{"/chat/completions", "/fine/*/cancel", "/models/*:embed"}})
		head, body := do(t, request(t, http.MethodPost, g.URL+"/openai"+path, strings.NewReader("any body")))
		require.Equal(t, status, head.StatusCode, "%s: %s", path, body)
	}
}

func TestASecondModelThatComesLaterReachesNobody(t *testing.T) {
	const begin = `{"model":"m","messages":[`
	reached, begun := make(chan bool, 1), make(chan struct{})
	body, write := io.Pipe()
	go func() {
		_, _ = io.WriteString(write, begin)
		<-begun // the provider has it
		_, _ = io.WriteString(write, `],"model":"stolen"}`)
		_ = write.Close()
	}()
	upstream := provider(t, func(_ http.ResponseWriter, r *http.Request) {
		first := make([]byte, len(begin))
		_, _ = io.ReadFull(r.Body, first)
		close(begun)
		rest, err := io.ReadAll(r.Body)
		reached <- len(rest) > 0 || err == nil
	})
	key := newKey(t, "openai", upstream+"/v1")
	key.Restrictions = &dataplane.Restrictions{Models: []string{"m"}}
	g := start(t, dataplanetest.Serving(callersKey, key))
	r := request(t, http.MethodPost, g.URL+"/openai/chat/completions", body)
	r.Header.Set("Content-Type", "application/json")
	head, answered := do(t, r)
	require.Equal(t, http.StatusForbidden, head.StatusCode, answered)
	require.False(t, <-reached, "the provider never gets a whole body, nor the second model")
}

// scan returns the model that a body in one piece names, or "".
func scan(body string) string {
	var s modelScanner
	if !s.feed([]byte(body)) || !s.isWhole() {
		return ""
	}
	return s.name()
}

func TestTheModelIsReadOnlyIfNothingElseCouldBeIt(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"m"}`: "m",
		" {\n\"messages\" : [ {\"model\":\"x\"} ] , \"model\"\t:\"m\" } ": "m",
		`{"a":[1,-2.5e3,true,null,{},[],""],"model":"a\/b\u002dc"}`:       "a/b-c",
		`{"\u006dodel":"m"}`:                       "m",
		`{"model":"m","x":{"model":1,"models":2}}`: "m",
		`{"model":"m","a":"\"model\":\"x\""}`:      "m",

		``: "", `{}`: "", `[]`: "", `"model"`: "", `{"model":"m"`: "", `{"model":"m"}}`: "", `{"model":"m"} {"model":"x"}`: "",
		`{"model":"m","model":"x"}`: "", `{"model":"m","\u006dodel":"x"}`: "", `{"model":"m","Model":"x"}`: "", `{"MODEL":"m"}`: "",
		`{"model":"m","models":["x"]}`: "", `{"model":"m","fallbacks":["x"]}`: "",
		`{"model":null}`: "", `{"model":["m"]}`: "", `{"model":{"a":"m"}}`: "", `{"model":""}`: "", `{"model":1}`: "",
		`{'model':'m'}`: "", `{model:"m"}`: "", `{"model":"m",}`: "", `{"model":"m"/**/}`: "", `{"model":"m","a":NaN}`: "", `{"model":"m","a":01}`: "",
		`{"model":"m","a":tru}`: "", `{"model":"m" "a":1}`: "", `{"model":"m","a":[1,]}`: "", `{"model":"m","a":[}]}`: "", "{\"model\":\"m\n\"}": "",
		"\xef\xbb\xbf{\"model\":\"m\"}": "", "{\"model\":\"m\",\"a\":\"\xc0\xa2\"}": "", `{"model":"\ud800"}`: "", "{\"a\":\"\xe2\",\"model\":\"m\"}": "",
		"{\"a\":\"\xe0\x80\xa2,\",\"model\":\"m\"}": "", "{\"a\":\"\xa2\",\"model\":\"m\"}": "", "{\"a\":\"\xed\xa0\x80\",\"model\":\"m\"}": "",
		"{\"a\":\"\xf0\x9f\x98\x80\u00e9\u20ac\",\"model\":\"m\u00e9\"}": "m\u00e9",
		`{"model":"\x"}`: "", `{"model":"m","a":"\u12g4"}`: "",
		`{"a":` + strings.Repeat("[", maxNesting) + strings.Repeat("]", maxNesting) + `,"model":"m"}`: "",
	} {
		require.Equal(t, want, scan(body), "%q", body)
	}
}

// If the scanner accepts a body, other parsers accept it as JSON, it names the model once, and the scanner accepts it
// in pieces of any size.
func FuzzModelScanner(f *testing.F) {
	for _, seed := range []string{
		`{"model":"m","messages":[{"role":"user","content":"\u00e9 \"x\""}],"n":1.5e-3}`, `{"model":"m","Model":"x"}`, `{"\u006dodel":"m","model":"x"}`,
		`{"a":{"b":[true,null]},"model":"a/b"} `, `{"model":"m"`, "{\"model\":\"\xff\"}",
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint8) {
		model := scan(string(body))
		var pieces modelScanner
		accepted := true
		for rest := body; len(rest) > 0 && accepted; {
			n := min(len(rest), int(size)%7+1)
			accepted, rest = pieces.feed(rest[:n]), rest[n:]
		}
		require.Equal(t, model != "", accepted && pieces.isWhole() && pieces.hasModel())
		if model == "" {
			return
		}
		require.Equal(t, model, pieces.name())
		require.True(t, json.Valid(body))
		require.True(t, utf8.Valid(body))
		decoder := json.NewDecoder(bytes.NewReader(body))
		_, err := decoder.Token() // {
		require.NoError(t, err)
		named := 0
		for decoder.More() {
			name, err := decoder.Token()
			require.NoError(t, err)
			var value json.RawMessage
			require.NoError(t, decoder.Decode(&value))
			if text, _ := name.(string); strings.EqualFold(text, "model") {
				named++
				var got string
				require.NoError(t, json.Unmarshal(value, &got))
				require.Equal(t, model, got)
			}
		}
		require.Equal(t, 1, named)
	})
}
