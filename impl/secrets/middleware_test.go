package secrets_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/secrets"
)

const sealBody = `{"binding": {"customer_id": "acme", "project_id": "chat", "key_id": "k", "provider": "openai", "version": 1}, "secret": %q}`

// post sends a body of unknown length to the operation that seals, as the user of this process.
func (s *service) post(body io.Reader) *httptest.ResponseRecorder {
	s.t.Helper()
	request := httptest.NewRequestWithContext(s.t.Context(), http.MethodPost, "/v1/seal", body)
	request = request.WithContext(secrets.ConnContext(request.Context(), secrets.PeerConn(uint32(os.Geteuid()))))
	request.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, request)
	return recorder
}

// unread is a body that fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// truncated is the end of a body whose connection broke.
type truncated struct{}

func (truncated) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestBodies(t *testing.T) {
	s := start(t, options{})
	for name, tc := range map[string]struct {
		body   io.Reader
		status int
		says   string
	}{
		"sealed":         {strings.NewReader(fmt.Sprintf(sealBody, "c2VjcmV0")), http.StatusOK, ""},
		"over the limit": {strings.NewReader(fmt.Sprintf(sealBody, strings.Repeat("a", 1<<20))), http.StatusRequestEntityTooLarge, "The body is over the limit of 1 MiB."},
		"truncated":      {io.MultiReader(strings.NewReader(`{"secret": "abcd`), truncated{}), http.StatusBadRequest, "did not come whole"},
		"empty":          {strings.NewReader(""), http.StatusBadRequest, "is empty"},
		"a long secret":  {strings.NewReader(fmt.Sprintf(sealBody, strings.Repeat("a", 87_385))), http.StatusBadRequest, "must have at most 87384 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := s.post(tc.body)
			require.Equal(t, tc.status, answer.Code)
			require.Contains(t, answer.Body.String(), tc.says)
		})
	}
	t.Run("of a client that may not seal", func(t *testing.T) {
		s := start(t, options{clients: clientsOf(t, `["status"]`)})
		require.Equal(t, http.StatusForbidden, s.post(unread{t}).Code)
	})
}

func TestLongBodiesTakeBoundedMemory(t *testing.T) {
	const most = 64 // bodies of unknown length
	s := start(t, options{maxConcurrent: 2 * most})
	var posted sync.WaitGroup
	var ends []*io.PipeWriter
	codes := make(chan int, most)
	for range most {
		body, end := io.Pipe()
		ends = append(ends, end)
		posted.Go(func() { codes <- s.post(body).Code })
		_, err := end.Write([]byte("{")) // returns once it is being read
		require.NoError(t, err)
	}
	answer := s.post(unread{t})
	require.Equal(t, http.StatusServiceUnavailable, answer.Code)
	require.Equal(t, "1", answer.Header().Get("Retry-After"))
	s.seal(s.marked()) // a short one needs no room
	for _, end := range ends {
		require.NoError(t, end.Close())
	}
	posted.Wait()
	for range most {
		require.Equal(t, http.StatusBadRequest, <-codes)
	}
	require.Equal(t, http.StatusOK, s.post(strings.NewReader(fmt.Sprintf(sealBody, "c2VjcmV0"))).Code, "the room is free again")
}
