package gateway

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/secret"
)

// pieces returns text in pieces of the given lengths, over and over.
type pieces struct {
	text    string
	lengths []byte
	next    int
}

func (r *pieces) Read(p []byte) (int, error) {
	if r.text == "" {
		return 0, io.EOF
	}
	n := len(r.text)
	if len(r.lengths) > 0 {
		n = min(n, 1+int(r.lengths[r.next%len(r.lengths)]))
		r.next++
	}
	n = copy(p, r.text[:n])
	r.text = r.text[n:]
	return n, nil
}

func (r *pieces) Close() error { return nil }

// requireMasked requires that out is in but for the secret, of which maxShown bytes may be left.
func requireMasked(t *testing.T, key, in, out string) {
	t.Helper()
	require.Len(t, out, len(in))
	require.NotContains(t, out, key)
	for rest, at := in, 0; rest != ""; {
		next := strings.Index(rest, key)
		if next < 0 {
			for n := min(len(key)-1, len(rest)); n > maxShown; n-- {
				if strings.HasSuffix(rest, key[:n]) {
					rest = rest[:len(rest)-n+maxShown] + strings.Repeat("*", n-maxShown)
					break
				}
			}
			require.Equal(t, rest, out[at:])
			return
		}
		require.Equal(t, rest[:next], out[at:at+next])
		shown := min(maxShown, len(key)-1)
		require.Equal(t, strings.Repeat("*", len(key)-shown), out[at+next+shown:at+next+len(key)])
		rest, at = rest[next+len(key):], at+next+len(key)
	}
}

func FuzzRedactedBody(f *testing.F) {
	f.Add("sk-proj-0123456789abcdef", "a ", " b", []byte{0})
	f.Add("sk-proj-0123456789abcdef", "sk-proj-sk-proj-", "sk-proj-0123", []byte{3, 200, 1})
	f.Add("aaab", "aaa", "aa", []byte{1})
	f.Fuzz(func(t *testing.T, key, before, after string, lengths []byte) {
		if key == "" || strings.Contains(key, "*") || strings.IndexFunc(key, isEscapable) >= 0 {
			return // a key of several forms, which TestRedactorForms covers
		}
		in := before + key + after
		for _, size := range []int{1, 7, 4096} {
			body := &redactedBody{ReadCloser: &pieces{text: in, lengths: lengths}, redactor: newRedactor(secret.New(key)), atEnd: func() {}}
			var out strings.Builder
			_, err := io.CopyBuffer(&out, struct{ io.Reader }{body}, make([]byte, size))
			require.NoError(t, err)
			requireMasked(t, key, in, out.String())
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
