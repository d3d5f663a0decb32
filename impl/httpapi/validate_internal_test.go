package httpapi

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

// spy is a body that remembers the memory into which it was read.
type spy struct {
	io.Reader
	given [][]byte
}

func (s *spy) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.given = append(s.given, p[:n])
	return n, err
}

func TestBuffersOfBodiesAreZeroed(t *testing.T) {
	long := `{"secret":"` + strings.Repeat("s", 20<<10) + `"}`
	for name, tc := range map[string]struct {
		body      io.Reader
		announced int64
		value     any
	}{
		"short":         {strings.NewReader(`{"secret":"s"}`), 14, map[string]any{"secret": "s"}},
		"grows":         {strings.NewReader(long), -1, map[string]any{"secret": long[11 : len(long)-2]}},
		"byte by byte":  {iotest.OneByteReader(strings.NewReader(long)), int64(len(long)), map[string]any{"secret": long[11 : len(long)-2]}},
		"not JSON":      {strings.NewReader(`{"secret":"s"`), 13, nil},
		"breaks off":    {io.MultiReader(strings.NewReader(`{"secret":"s`), iotest.ErrReader(io.ErrUnexpectedEOF)), 14, nil},
		"is too long":   {strings.NewReader(strings.Repeat(" ", DefaultMaxBody) + `{"secret":"s"}`), -1, nil},
		"ends with EOF": {iotest.DataErrReader(strings.NewReader(`{"secret":"s"}`)), 14, map[string]any{"secret": "s"}},
	} {
		t.Run(name, func(t *testing.T) {
			body := &spy{Reader: tc.body}
			request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", io.NopCloser(body))
			request.Header.Set("Content-Type", "application/json")
			request.ContentLength = tc.announced
			c := echo.New().NewContext(request, httptest.NewRecorder())
			v := &validator{body: openapi3.NewObjectSchema(), maxBody: DefaultMaxBody}
			fields, err := v.checkBody(c)
			require.Empty(t, fields)
			require.Equal(t, tc.value == nil, err != nil)
			if err == nil {
				checked, ok := request.Body.(validatedBody)
				require.True(t, ok)
				require.Equal(t, tc.value, checked.ValidatedValue())
			}
			require.NotEmpty(t, body.given)
			for _, memory := range body.given {
				require.Empty(t, bytes.Trim(memory, "\x00"))
			}
		})
	}
}
