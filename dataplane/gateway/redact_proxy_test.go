package gateway_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/internal/crossorigin"
)

// The provider sends its key back in every part of an answer. None of them reaches the caller with it.
func TestProviderNeverSendsTheKeyBack(t *testing.T) {
	half := len(secret) / 2
	whole := fmt.Sprintf("suspended: %s, or in a URL: ?k=%[1]s", secret)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"in the body": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, whole)
		},
		"in pieces": func(w http.ResponseWriter) {
			for _, piece := range []string{"suspended: " + secret[:half], secret[half:], ", or in a URL: ?k=" + secret[:1], secret[1:]} {
				_, _ = io.WriteString(w, piece)
				flush(w)
			}
		},
		"in headers and trailers": func(w http.ResponseWriter) {
			w.Header().Set("X-Debug-Authorization", "Bearer "+secret)
			w.Header().Set("Trailer", "X-Key")
			_, _ = io.WriteString(w, whole)
			w.Header().Set("X-Key", secret)
			w.Header().Set(http.TrailerPrefix+"X-Late", secret)
		},
		"in a trailer that was not announced": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, whole)
			flush(w) // a body of unknown length can have trailers
			w.Header().Set(http.TrailerPrefix+"X-Late", secret)
		},
		"in a 1xx answer": func(w http.ResponseWriter) {
			w.Header().Set("Link", "<https://provider.example/?key="+secret+">")
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
				if got := r.Header.Get("Authorization"); got != "Bearer "+secret {
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
			require.NotContains(t, seen, secret)
			require.NotContains(t, seen, secret[half:], "what is shown of it is no more than keys have in common")
			require.NotContains(t, seen, "early=1")
			require.Contains(t, seen, "****")
			require.Eventually(t, func() bool {
				families, err := gw.registry.Gather()
				for _, family := range families {
					if family.GetName() == "aikeys_gateway_redacted_total" {
						return err == nil && family.GetMetric()[0].GetCounter().GetValue() == 1
					}
				}
				return false
			}, 5*time.Second, time.Millisecond, "counted once the answer has ended")
			require.Eventually(t, func() bool { return gw.Exposures() == 1 }, 5*time.Second, time.Millisecond, "reported for an event")
		})
	}
	t.Run("in an encoding that can't be searched", func(t *testing.T) {
		gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, whole)
		})
		res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
		require.Equal(t, http.StatusBadGateway, res.StatusCode)
		require.NotContains(t, body, secret)
	})
}

func TestLinksToTheProviderLeadBack(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/v1/files/f1?k="+secret)
		w.WriteHeader(http.StatusSeeOther)
	})
	res, _ := do(t, request(t, "GET", gw.URL+"/openai/v1/files", nil))
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	require.Equal(t, gw.URL+"/openai/files/f1?k="+strings.Repeat("*", len(secret)), res.Header.Get("Location"))
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
	_, err = io.Copy(io.Discard, res.Body) // trailers come after it
	require.NoError(t, errors.Join(err, res.Body.Close()))
	require.Equal(t, "<"+gw.URL+"/openai/files>", early)
	require.Equal(t, "<"+gw.URL+"/openai/files>", res.Trailer.Get("Link"))
}

// Which pages may read an answer is the operator's to say, with a handler around the gateway, and never the provider's.
func TestProvidersDoNotSayWhichPagesMayRead(t *testing.T) {
	gw := startHandler(t, dataplanetest.Serving(callersKey, dataplanetest.NewKey(t, "openai", dataplane.AuthBearer, provider(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		if r.URL.Path == "/v1/hinted" {
			w.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = io.WriteString(w, "{}")
	})+"/v1", secret)), func(cfg gateway.Config) (http.Handler, error) {
		gw, err := gateway.New(cfg)
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
