package gateway

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/internal/crossorigin"
	"github.com/agentrouter/aikeys/internal/secret"
)

func FuzzRedactedBody(f *testing.F) {
	f.Add("sk-proj-0123456789abcdef", "a ", " b", []byte{0})
	f.Add("sk-proj-0123456789abcdef", "sk-proj-sk-proj-", "sk-proj-0123", []byte{3, 200, 1})
	f.Add("aaab", "aaa", "aa", []byte{1})
	f.Fuzz(func(t *testing.T, key, before, after string, lengths []byte) {
		if key == "" || strings.Contains(key, "*") || strings.IndexFunc(key, isEscapable) >= 0 {
			return // TestRedactorForms covers keys with several forms
		}
		in := before + key + after
		for _, size := range []int{1, 7, 4096} {
			var pieces []io.Reader
			for rest := in; rest != ""; {
				n := len(rest)
				if len(lengths) > 0 {
					n = min(n, 1+int(lengths[len(pieces)%len(lengths)]))
				}
				pieces, rest = append(pieces, strings.NewReader(rest[:n])), rest[n:]
			}
			body := &redactedBody{
				ReadCloser: io.NopCloser(io.MultiReader(pieces...)), redactor: newRedactor(secret.New(key)), atEnd: func() {},
			}
			var passed strings.Builder
			_, err := io.CopyBuffer(&passed, struct{ io.Reader }{body}, make([]byte, size))
			require.NoError(t, err)
			out := passed.String() // the input with the secret masked, but for maxShown bytes
			require.Len(t, out, len(in))
			require.NotContains(t, out, key)
			rest, at := in, 0
			for next := strings.Index(rest, key); next >= 0; next = strings.Index(rest, key) {
				require.Equal(t, rest[:next], out[at:at+next])
				shown := min(maxShown, len(key)-1)
				require.Equal(t, strings.Repeat("*", len(key)-shown), out[at+next+shown:at+next+len(key)])
				rest, at = rest[next+len(key):], at+next+len(key)
			}
			for n := min(len(key)-1, len(rest)); n > maxShown; n-- { // the answer may end within the secret
				if strings.HasSuffix(rest, key[:n]) {
					rest = rest[:len(rest)-n+maxShown] + strings.Repeat("*", n-maxShown)
					break
				}
			}
			require.Equal(t, rest, out[at:])
			require.True(t, body.redactor.found.Load())
		}
	})
}

func TestRedactedBodyDelaysNothing(t *testing.T) {
	const key = "sk-proj-0123456789abcdef"
	reader, writer := io.Pipe()
	body := &redactedBody{ReadCloser: reader, redactor: newRedactor(secret.New(key))}
	for _, message := range []string{"data: words\n\n", "ends as keys do: sk-proj-", "s", "sk-proj-01 is no key"} {
		go func() { _, _ = writer.Write([]byte(message)) }()
		got := make([]byte, 100)
		n, err := body.Read(got)
		require.NoError(t, err)
		require.Equal(t, message, string(got[:n]))
	}
	require.False(t, body.redactor.found.Load())
}

func TestRedactedBodyPassesErrorsOn(t *testing.T) {
	body := &redactedBody{ReadCloser: io.NopCloser(iotest.TimeoutReader(bytes.NewReader([]byte("sk-proj-01234567")))), redactor: newRedactor(secret.New("sk-proj-0123456789")), atEnd: func() {}}
	out, err := io.ReadAll(body)
	require.ErrorIs(t, err, iotest.ErrTimeout)
	require.Equal(t, "sk-proj-********", string(out), "a part of a key is masked as the whole is")
}

func TestPrefixOfAllKeysIsNoExposure(t *testing.T) {
	const key = "sk-ant-api03-0123456789abcdefghij"
	for sent, exposed := range map[string]bool{"keys begin with sk-ant-api03-": false, "or sk-ant-api03-0": false, "this is most of one: " + key[:20]: true} {
		body := &redactedBody{ReadCloser: io.NopCloser(strings.NewReader(sent)), redactor: newRedactor(secret.New(key)), atEnd: func() {}}
		out, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NotContains(t, string(out), key[:maxShown+1])
		require.Equal(t, exposed, body.redactor.found.Load(), sent)
	}
}

func TestRedactorForms(t *testing.T) {
	const key = `{"key":"a/b+c=<d>"}`
	for _, form := range []string{
		key, `{\"key\":\"a/b+c=<d>\"}`, `{\"key\":\"a\/b+c=<d>\"}`, `{\"key\":\"a/b+c=\u003cd\u003e\"}`,
		"%7B%22key%22%3A%22a%2Fb%2Bc%3D%3Cd%3E%22%7D", "%7b%22key%22%3a%22a%2fb%2bc%3d%3cd%3e%22%7d",
	} {
		r := newRedactor(secret.New(key))
		text := []byte("x " + form + " y")
		r.mask(text)
		require.Equal(t, "x "+strings.Repeat("*", len(form))+" y", string(text))
		header := http.Header{"X-Debug": {"Bearer " + form}}
		r.header(header)
		require.Equal(t, "Bearer "+strings.Repeat("*", len(form)), header.Get("X-Debug"))
	}
	r := newRedactor(secret.New("sk-1234567890"))
	header := http.Header{"X-Sk-1234567890": {"1"}, "X-Other": {"2"}}
	r.header(header)
	require.Equal(t, http.Header{"X-Other": {"2"}}, header)
}

// The provider sends its key back in every part of an answer. No part reaches the caller with the key.
func TestProviderNeverSendsTheKeyBack(t *testing.T) {
	half := len(providersKey) / 2
	whole := fmt.Sprintf("suspended: %s, or in a URL: ?k=%[1]s", providersKey)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"in the body": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, whole)
		},
		"in pieces": func(w http.ResponseWriter) {
			for _, piece := range []string{"suspended: " + providersKey[:half], providersKey[half:], ", or in a URL: ?k=" + providersKey[:1], providersKey[1:]} {
				_, _ = io.WriteString(w, piece)
				flush(w)
			}
		},
		"in headers and trailers": func(w http.ResponseWriter) {
			w.Header().Set("X-Debug-Authorization", "Bearer "+providersKey)
			w.Header().Set("Trailer", "X-Key")
			_, _ = io.WriteString(w, whole)
			w.Header().Set("X-Key", providersKey)
			w.Header().Set(http.TrailerPrefix+"X-Late", providersKey)
		},
		"in a trailer that was not announced": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, whole)
			flush(w) // a body of unknown length can have trailers
			w.Header().Set(http.TrailerPrefix+"X-Late", providersKey)
		},
		"in a 1xx answer": func(w http.ResponseWriter) {
			w.Header().Set("Link", "<https://provider.example/?key="+providersKey+">")
			w.Header().Set("Set-Cookie", "early=1")
			w.WriteHeader(http.StatusEarlyHints)
			clear(w.Header())
			_, _ = io.WriteString(w, whole)
		},
		"packed, though nothing may be": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			_, _ = io.WriteString(packed, whole)
			_ = packed.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Get("Authorization"); got != "Bearer "+providersKey {
					t.Errorf("the provider got %q", got)
				}
				answer(w)
			})
			var early strings.Builder
			r := request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}"))
			r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
					fmt.Fprint(&early, header)
					return nil
				},
			}))
			res, err := http.DefaultTransport.RoundTrip(r)
			require.NoError(t, err)
			text, err := io.ReadAll(res.Body)
			require.NoError(t, errors.Join(err, res.Body.Close()))
			body := string(text)
			require.Len(t, body, len(whole), "masked with equal length")
			require.Equal(t, "suspended: ", body[:11])
			seen := fmt.Sprint(early.String(), res.Header, res.Trailer, body)
			require.NotContains(t, seen, providersKey)
			require.NotContains(t, seen, providersKey[half:], "what is shown of it is no more than keys have in common")
			require.NotContains(t, seen, "early=1")
			require.Contains(t, seen, "****")
			require.Eventually(t, func() bool {
				return gw.counted("aikeys_gateway_redacted_total", 1) && gw.Calls().Exposures == 1
			}, 5*time.Second, time.Millisecond, "counted once the answer has ended, and reported for an event")
		})
	}
	t.Run("in an encoding that can't be searched", func(t *testing.T) {
		gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, whole)
		})
		res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
		require.Equal(t, http.StatusBadGateway, res.StatusCode)
		require.NotContains(t, body, providersKey)
	})
}

func TestLinksToTheProviderLeadBack(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/v1/files/f1?k="+providersKey)
		w.WriteHeader(http.StatusSeeOther)
	})
	res, _ := do(t, request(t, "GET", gw.URL+"/openai/v1/files", nil))
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	require.Equal(t, gw.URL+"/openai/files/f1?k="+strings.Repeat("*", len(providersKey)), res.Header.Get("Location"))
}

func TestLinksInJSONAnswersLeadBack(t *testing.T) {
	page := func(r *http.Request) string { return `{"next": "http://` + r.Host + `/v1/files?after=f1"}` }
	long := strings.Repeat(" ", 1<<20)
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		switch document := page(r); r.URL.Path {
		case "/v1/packed":
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			_, _ = io.WriteString(packed, document)
			_ = packed.Close()
		case "/v1/pieces":
			for i := range document {
				_, _ = io.WriteString(w, document[i:i+1])
				flush(w)
			}
		case "/v1/long":
			_, _ = io.WriteString(w, document+long)
		case "/v1/cut":
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, document)
		case "/v1/attached":
			w.Header().Set("Content-Disposition", "attachment")
			_, _ = io.WriteString(w, document)
		case "/v1/text":
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, document)
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(document)))
			_, _ = io.WriteString(w, document)
		}
	})
	get := func(method, path string) (answer, string) {
		res, body := do(t, request(t, method, gw.URL+"/openai/v1/"+path, nil))
		require.Equal(t, http.StatusOK, res.StatusCode)
		return res, body
	}
	back := `{"next": "` + gw.URL + `/openai/files?after=f1"}`
	for _, path := range []string{"files", "packed", "pieces"} {
		_, body := get(http.MethodGet, path)
		require.Equal(t, back, body, path)
	}
	for _, path := range []string{"attached", "text"} {
		_, body := get(http.MethodGet, path)
		require.NotContains(t, body, gw.URL, path)
	}
	_, body := get(http.MethodPost, "files")
	require.NotContains(t, body, gw.URL, "inference passes unchanged")
	_, body = get(http.MethodGet, "long")
	require.True(t, strings.HasSuffix(body, long), "a document beyond the bound is whole")
	res, _ := get(http.MethodHead, "files")
	require.NotEmpty(t, res.Header.Get("Content-Type"))
	cut, err := http.DefaultTransport.RoundTrip(request(t, http.MethodGet, gw.URL+"/openai/v1/cut", nil))
	if err == nil {
		_, err = io.ReadAll(cut.Body)
		require.NoError(t, cut.Body.Close())
	}
	require.Error(t, err, "what was cut off is not passed off as whole")
}

func TestLinksInTrailersAndEarlyHintsLeadBack(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		link := "<http://" + r.Host + "/v1/files>"
		w.Header().Set("Link", link)
		w.WriteHeader(http.StatusEarlyHints)
		clear(w.Header())
		flush(w)
		w.Header().Set(http.TrailerPrefix+"Link", link)
	})
	var early string
	r := request(t, "GET", gw.URL+"/openai/v1/files", nil)
	res, err := http.DefaultTransport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			early = header.Get("Link")
			return nil
		},
	})))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, res.Body) // the trailers come after the body
	require.NoError(t, errors.Join(err, res.Body.Close()))
	require.Equal(t, "<"+gw.URL+"/openai/files>", early)
	require.Equal(t, "<"+gw.URL+"/openai/files>", res.Trailer.Get("Link"))
}

// The operator decides which pages may read an answer, with a handler around the gateway. The provider does not.
func TestProvidersDoNotSayWhichPagesMayRead(t *testing.T) {
	gw := startHandler(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		if r.URL.Path == "/v1/hinted" {
			w.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = io.WriteString(w, "{}")
	})+"/v1", providersKey)), func(cfg Config) (http.Handler, error) {
		gw, err := New(cfg)
		return crossorigin.Allow([]string{"https://app.example.com"}, gw), err
	})
	for _, path := range []string{"/openai/chat", "/openai/hinted", "/nobody/chat"} {
		for origin, allowed := range map[string][]string{"https://app.example.com": {"https://app.example.com"}, "https://evil.example": nil} {
			r := request(t, http.MethodPost, gw.URL+path, strings.NewReader("{}"))
			r.Header.Set("Origin", origin)
			res, _ := do(t, r)
			require.Equal(t, allowed, res.Header["Access-Control-Allow-Origin"], path)
			require.Empty(t, res.Header["Access-Control-Allow-Credentials"])
			require.Contains(t, res.Header["Vary"], "Origin")
		}
	}
}
