package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

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

// What the scanner accepts is JSON for everybody, names the model once, and is accepted in whatever pieces it comes.
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
