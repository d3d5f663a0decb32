package aikeys_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// register returns a request to register a shared key, changed as the caller likes.
func register(t *testing.T, s *aikeystest.Service, name string, changes ...func(*aikeystest.Request)) aikeystest.Request {
	t.Helper()
	r := aikeystest.Request{
		Method: http.MethodPost, Path: project + "/aikeys", Token: s.As(owner).Token, Body: encode(t, s.Shared(name)), Header: http.Header{},
	}
	for _, change := range changes {
		change(&r)
	}
	return r
}

func header(name string, values ...string) func(*aikeystest.Request) {
	return func(r *aikeystest.Request) { r.Header[name] = values }
}

func TestContentType(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	refused := map[string]func(*aikeystest.Request){
		"no content type":             header("Content-Type"),
		"an empty content type":       header("Content-Type", ""),
		"plain text":                  header("Content-Type", "text/plain"),
		"a form":                      header("Content-Type", "application/x-www-form-urlencoded"),
		"a multipart form":            header("Content-Type", "multipart/form-data; boundary=x"),
		"a longer name":               header("Content-Type", "application/jsonx"),
		"a JSON of another kind":      header("Content-Type", "application/merge-patch+json"),
		"two types in one header":     header("Content-Type", "application/json, text/plain"),
		"two content types":           header("Content-Type", "application/json", "text/plain"),
		"the same twice":              header("Content-Type", "application/json", "application/json"),
		"another charset":             header("Content-Type", "application/json; charset=latin1"),
		"a charset twice":             header("Content-Type", "application/json; charset=utf-8; charset=utf-16"),
		"a broken parameter":          header("Content-Type", "application/json; "+secret),
		"a secret as content type":    header("Content-Type", secret),
		"a secret as charset":         header("Content-Type", "application/json; charset="+secret),
		"gzip":                        header("Content-Encoding", "gzip"),
		"a secret as encoding":        header("Content-Encoding", secret),
		"two encodings in one header": header("Content-Encoding", "identity, gzip"),
		"two encodings":               header("Content-Encoding", "identity", "gzip"),
	}
	for name, change := range refused {
		t.Run(name, func(t *testing.T) {
			reply := s.Send(t, register(t, s, name, change))
			require.Equal(t, http.StatusUnsupportedMediaType, reply.Status)
			require.Equal(t, "invalid_argument", reply.Problem(t).Code)
		})
	}
	t.Run("a body that is zipped indeed", func(t *testing.T) {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err := w.Write(encode(t, s.Shared("zipped")))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		r := register(t, s, "", header("Content-Encoding", "gzip"))
		r.Body = zipped.Bytes()
		require.Equal(t, http.StatusUnsupportedMediaType, s.Send(t, r).Status)
	})
	require.Empty(t, list(t, s, owner))
	for name, change := range map[string]func(*aikeystest.Request){
		"UTF-8 in upper case":    header("Content-Type", "application/json; charset=UTF-8"),
		"quoted":                 header("Content-Type", `application/json;charset="utf-8"`),
		"in other letter case":   header("Content-Type", "Application/JSON"),
		"with another parameter": header("Content-Type", "application/json; profile=x"),
		"identity":               header("Content-Encoding", "identity"),
		"chunked":                func(r *aikeystest.Request) { r.Chunked = true },
	} {
		t.Run("taken: "+name, func(t *testing.T) {
			require.Equal(t, http.StatusCreated, s.Send(t, register(t, s, name, change)).Status)
		})
	}
}

func TestBodyTooLarge(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	padded := func(size int) []byte {
		body := encode(t, s.Shared("padded"))
		return append(bytes.Repeat([]byte(" "), size-len(body)), body...)
	}
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody == nil {
			continue
		}
		for name, body := range map[string][]byte{
			"one byte too many": padded(64<<10 + 1),
			"1 MiB":             []byte(`{"secret":"` + strings.Repeat(secret, 32<<10) + `"}`),
		} {
			for _, chunked := range []bool{false, true} {
				o.Token, o.Body, o.Chunked = s.As(owner).Token, body, chunked
				reply := s.Send(t, o.Request)
				require.Equal(t, http.StatusRequestEntityTooLarge, reply.Status, "%s, %s", o.OperationID, name)
			}
		}
	}
	t.Run("and one of the limit is not", func(t *testing.T) {
		r := register(t, s, "")
		r.Body = padded(64 << 10)
		require.Equal(t, http.StatusCreated, s.Send(t, r).Status)
	})
	t.Run("a secret of 16 KiB fits, escaped as it may be", func(t *testing.T) {
		long := "sk-" + strings.Repeat(`\"`, 16<<10-3)
		r := register(t, s, "")
		r.Body = []byte(`{"provider":"openai","name":"long","secret":"` + long + `"}`)
		require.Equal(t, http.StatusCreated, s.Send(t, r).Status)
	})
}

func TestBadQuery(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("n"))
	secret := s.Secret()
	eventsToken := "ZXZ0XzAxSkQ4UTZaM1gwQjRENkY4SDlKMUszTTVO" // evt_01JD8Q6Z3X0B4D6F8H9J1K3M5N
	cases := []struct{ name, path, field string }{
		{"an unknown parameter", "/aikeys?x=1", "query"},
		{"a secret as name", "/aikeys?" + secret + "=1", "query"},
		{"a secret as name, without a value", "/aikeys?" + secret, "query"},
		{"a secret as value of an unknown one", "/aikeys?secret=" + secret, "query"},
		{"a name in upper case", "/aikeys?PROVIDER=openai", "query"},
		{"a name of arrays", "/aikeys?provider[]=openai", "query"},
		{"a name with a NUL", "/aikeys?provider%00=openai", "query"},
		{"an unknown one where none is taken", "/aikeys/" + key.ID + "?" + secret + "=" + secret, "query"},
		{"a broken escape", "/aikeys?" + secret + "=%zz", "query"},
		{"a semicolon", "/aikeys?provider=openai;" + secret, "query"},
		{"twice", "/aikeys?provider=openai&provider=" + secret, "provider"},
		{"twice the same", "/aikeys?provider=openai&provider=openai", "provider"},
		{"an unknown provider", "/aikeys?provider=" + secret, "provider"},
		{"an empty provider", "/aikeys?provider=", "provider"},
		{"a provider without a value", "/aikeys?provider", "provider"},
		{"a provider too long", "/aikeys?provider=" + strings.Repeat(secret, 3), "provider"},
		{"a provider with a NUL", "/aikeys?provider=openai%00", "provider"},
		{"a provider that is not UTF-8", "/aikeys?provider=%ff" + secret, "provider"},
		{"an unknown state", "/aikeys?state=" + secret, "state"},
		{"a state in upper case", "/aikeys?state=ACTIVE", "state"},
		{"no provider to resolve", "/resolve", "provider"},
		{"an unknown provider to resolve", "/resolve?provider=" + secret, "provider"},
		{"two providers to resolve", "/resolve?provider=openai&provider=anthropic", "provider"},
		{"an invalid token", "/aikeys?page_token=" + secret, "page_token"},
		{"a token of another alphabet", "/aikeys?page_token=%21" + secret, "page_token"},
		{"an empty token", "/aikeys?page_token=", "page_token"},
		{"a token too long", "/aikeys?page_token=" + strings.Repeat("A", 129), "page_token"},
		{"a token of the events", "/aikeys?page_token=" + eventsToken, "page_token"},
		{"a token of the keys for events", "/events?page_token=YnlvazY", "page_token"},
		{"a member's token that is no id", "/members?page_token=IA", "page_token"},
		{"a page of events too long", "/events?page_size=501", "page_size"},
		{"an escape in a wait", "/aikeys/" + key.ID + "?wait=2s%0a", "query"},
	}
	for _, size := range []string{"x", secret, "", "0", "-1", "1001", "01", "1.0", "1e2", "%2B5", "+5", "0x10", "9999999999999999999", "null", "1%00", "٣"} {
		for _, path := range []string{"/aikeys", "/events", "/members"} {
			cases = append(cases, struct{ name, path, field string }{"size " + size, path + "?page_size=" + size, "page_size"})
		}
	}
	for _, tc := range cases {
		t.Run(tc.path[:4]+" "+tc.name, func(t *testing.T) {
			reply := get(t, s, owner, project+tc.path)
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{tc.field}, reply.Fields(t))
		})
	}
}

func TestBadIdempotencyKey(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	for name, values := range map[string][]string{
		"twice":              {secret, secret},
		"empty":              {""},
		"too long":           {strings.Repeat("k", 256)},
		"a space within":     {secret + " " + secret},
		"other than ASCII":   {secret + "é"},
		"two in one, spaced": {secret + ", " + secret},
	} {
		t.Run(name, func(t *testing.T) {
			reply := s.Send(t, register(t, s, name, header("Idempotency-Key", values...)))
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"Idempotency-Key"}, reply.Fields(t))
		})
	}
	require.Empty(t, list(t, s, owner))
	for name, value := range map[string]string{
		"the longest": strings.Repeat("k", 255), "a UUID": "7b0f2c1e-6f0b-4f4e-9a57-0f5f3c1d2e3a", "signs": `!"#$%&'()*+,-./:;<=>?@[\]^_{|}~`, "an escape": "%41",
	} {
		t.Run("taken: "+name, func(t *testing.T) {
			require.Equal(t, http.StatusCreated, s.Send(t, register(t, s, name, header("Idempotency-Key", value))).Status)
		})
	}
}
