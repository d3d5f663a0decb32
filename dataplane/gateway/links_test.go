package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
)

func TestLinksLeadBackThroughTheGateway(t *testing.T) {
	const origin = "https://gateway.example"
	caller := httptest.NewRequest(http.MethodGet, origin+"/groq/batches", nil)
	parse := func(text string) *url.URL {
		u, err := url.Parse(text)
		require.NoError(t, err)
		return u
	}
	sent := parse("https://provider.example/openai/v1/batches?limit=1")
	to, err := newDestination(&dataplane.Key{BaseURL: "https://provider.example/openai/v1", Routes: []dataplane.Route{{Path: "/upload"}}}, nil)
	require.NoError(t, err)
	p := &proxiedRequest{destination: to, incoming: caller, provider: "groq", caller: dataplane.Request{Credential: "ak_a&b"}}
	for link, want := range map[string]string{
		"https://provider.example/openai/v1/batches/b1":          origin + "/groq/batches/b1",
		"https://PROVIDER.example/openai/v1/files?after=f%2F1#x": origin + "/groq/files?after=f%2F1#x",
		"https://provider.example:443/openai/v1/batches/b1":      origin + "/groq/batches/b1",
		"https://provider.example./openai/v1/batches/b1":         origin + "/groq/batches/b1",
		"http://provider.example:80/openai/v1/batches/b1":        origin + "/groq/batches/b1",
		"https://provider.example:8443/openai/v1/batches/b1":     "https://provider.example:8443/openai/v1/batches/b1",
		"/openai/v1/batches/b1":                                  origin + "/groq/batches/b1",
		"b1":                                                     origin + "/groq/b1",
		"?after=b1":                                              origin + "/groq/batches?after=b1",
		"https://provider.example/openai/v1":                     origin + "/groq",
		"https://u:p@provider.example/openai/v1/a":               origin + "/groq/a",
		"https://provider.example/openai/v10/a":                  "",
		"https://provider.example/admin":                         "",
		"https://provider.example/upload/v1/files?upload_id=u":   origin + "/groq/upload/v1/files?upload_id=u",
		"https://provider.example/uploads":                       "",
		"//provider.example/admin":                               "",
		"https://files.example/signed?key=1":                     "https://files.example/signed?key=1",
		"https://%zz":                                            "",
	} {
		header := http.Header{"Location": {link}, "Operation-Location": {link, link}}
		p.rewriteLinks(header, sent)
		require.Equal(t, want, header.Get("Location"), link)
		require.Equal(t, want, header.Get("Operation-Location"), link)
	}
	header := http.Header{"Link": {`<https://provider.example/openai/v1/b?page=2>; rel="next", </admin>; rel="last", <https://docs.example>; rel="help"`}}
	p.rewriteLinks(header, sent)
	require.Equal(t, `<`+origin+`/groq/b?page=2>; rel="next", <>; rel="last", <https://docs.example>; rel="help"`, header.Get("Link"))
	for link, want := range map[string]string{
		"https://provider.example/upload/f?upload_id=u": origin + "/gemini/upload/f?upload_id=u&key=ak_a%26b",
		"https://provider.example/upload/f":             origin + "/gemini/upload/f?key=ak_a%26b",
		"https://provider.example/upload/f?key=***&u=1": origin + "/gemini/upload/f?u=1&key=ak_a%26b",
		"https://files.example/upload/f":                "https://files.example/upload/f", // the credential goes nowhere else
	} {
		p.provider = "gemini"
		header := http.Header{"X-Goog-Upload-Url": {link}}
		p.rewriteLinks(header, sent)
		require.Equal(t, want, header.Get("X-Goog-Upload-Url"), link)
	}
	for forwarded, want := range map[string]string{
		"https": origin + "/gemini/upload/f?key=ak_a%26b", "https, http": origin + "/gemini/upload/f?key=ak_a%26b",
		"http": "http://gateway.example/gemini/upload/f", "": "http://gateway.example/gemini/upload/f", // no credential in the clear
	} {
		p.incoming = httptest.NewRequest(http.MethodGet, "http://gateway.example/gemini/upload", nil)
		p.incoming.Header.Set("X-Forwarded-Proto", forwarded)
		header := http.Header{"X-Goog-Upload-Url": {"https://provider.example/upload/f"}}
		p.rewriteLinks(header, sent)
		require.Equal(t, want, header.Get("X-Goog-Upload-Url"), forwarded)
	}
}

func TestLinksInDocumentsLeadBack(t *testing.T) {
	const origin = "https://gateway.example/gemini"
	sent := &url.URL{Scheme: "http", Host: "upstream.example", Path: "/google/v1beta/files"}
	key := &dataplane.Key{BaseURL: "https://provider.example/v1beta", Provider: "gemini", Routes: []dataplane.Route{{Path: "/download"}, {Path: "/v1"}}}
	to, err := newDestination(key, &url.URL{Scheme: "http", Host: "127.0.0.1:8080", Path: "/google/v1beta"})
	require.NoError(t, err)
	p := &proxiedRequest{destination: to, incoming: httptest.NewRequest(http.MethodGet, origin, nil), provider: "gemini"}
	for document, want := range map[string]string{
		`{"uri": "https://provider.example/v1beta/files/f1:download?alt=media"}`:             `{"uri": "` + origin + `/files/f1:download?alt=media"}`,
		`{"next":"http:\/\/127.0.0.1:8080\/google\/v1beta\/files?a=1\u0026b=2" , "n" : 1.0}`: `{"next":"` + origin + `/files?a=1&b=2" , "n" : 1.0}`,
		`[["https://provider.example/download/x"], {"a": {"b": "http://upstream.example/google/v1beta/b"}}]`: `[["` +
			origin + `/download/x"], {"a": {"b": "` + origin + `/b"}}]`,
		`"https://provider.example/v1/m"`: `"` + origin + `/v1/m"`,

		`{"uri": "https://provider.example/v1beta/files/f1"}`:                               "", // a name, which generateContent takes
		`{"a": "https://provider.example/settings", "b": "//provider.example/v1"}`:          "",
		`{"a": "see https://provider.example/v1beta/files", "b": "/v1beta/files"}`:          "",
		`{"a": "https://files.example/v1beta/files", "b": "wss://provider.example/v1beta"}`: "",
		`{"https://provider.example/v1beta/files": 1, "a": "b", "a": null}`:                 "",
		`{"a": "https://provider.example/v1beta/x"`:                                         `{"a": "` + origin + `/x"`,
		`<a href="https://provider.example/v1beta/x">`:                                      "",
		``: "",
	} {
		if want == "" {
			want = document
		}
		require.Equal(t, want, string(p.rewriteLinksIn([]byte(document), sent)), document)
	}
}
