package docsite_test

import (
	"compress/gzip"
	"crypto/sha256"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/docsite"
)

func TestResourcesAnswerOnlyGetAndHead(t *testing.T) {
	s := start(t, docsite.Config{})
	for _, path := range everyPath() {
		full, head := s.get(t, path), s.ask(t, http.MethodHead, path)
		require.Equal(t, http.StatusOK, head.StatusCode, path)
		require.Empty(t, head.body)
		require.EqualValues(t, len(full.body), head.ContentLength, path)
		require.Equal(t, full.Header.Get("ETag"), head.Header.Get("ETag"))
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
			got := s.ask(t, method, path)
			require.Equal(t, http.StatusMethodNotAllowed, got.StatusCode)
			require.Equal(t, "GET, HEAD", got.Header.Get("Allow"))
			require.Contains(t, got.body, `"code":"invalid_argument"`)
		}
	}
}

func TestResourcesAreCached(t *testing.T) {
	s := start(t, docsite.Config{})
	for _, path := range everyPath() {
		tag := s.get(t, path).Header.Get("ETag")
		require.NotEmpty(t, tag, path)
		for _, known := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
			got := s.get(t, path, "If-None-Match", known)
			require.Equal(t, http.StatusNotModified, got.StatusCode, "%s %s", path, known)
			require.Empty(t, got.body)
			require.Equal(t, tag, got.Header.Get("ETag"))
			require.Contains(t, got.Header.Get("Cache-Control"), "no-cache")
		}
		require.Equal(t, http.StatusOK, s.get(t, path, "If-None-Match", `"other"`).StatusCode)
	}
	t.Run("the entity tag depends on the host", func(t *testing.T) {
		tag := s.get(t, "/openapi.yaml").Header.Get("ETag")
		require.NotEqual(t, tag, s.get(t, "/openapi.yaml", "Host", "keys.example.com").Header.Get("ETag"))
		require.Contains(t, s.get(t, "/openapi.yaml").Header.Get("Cache-Control"), "private", "and no shared cache keeps it")
	})
	t.Run("versioned links are cached forever", func(t *testing.T) {
		link := regexp.MustCompile(`/docs/assets/site\.css\?v=\w+`).FindString(s.get(t, "/docs").body)
		require.Contains(t, s.get(t, link).Header.Get("Cache-Control"), "immutable")
		require.Equal(t, "no-cache", s.get(t, "/docs/assets/site.css?v=another").Header.Get("Cache-Control"))
	})
	require.Equal(t, "no-store", s.get(t, "/v1/whoami").Header.Get("Cache-Control"), "the API's answers are not kept")
}

func TestGzipNegotiation(t *testing.T) {
	s := start(t, docsite.Config{})
	const path = "/docs/assets/search.js"
	plain := s.get(t, path)
	require.Empty(t, plain.Header.Get("Content-Encoding"))
	for _, accepted := range []string{"gzip", "br, GZIP;q=0.5", "deflate,gzip"} {
		got := s.get(t, path, "Accept-Encoding", accepted)
		require.Equal(t, "gzip", got.Header.Get("Content-Encoding"), accepted)
		require.Equal(t, "Accept-Encoding", got.Header.Get("Vary"))
		require.NotEqual(t, plain.Header.Get("ETag"), got.Header.Get("ETag"))
		reader, err := gzip.NewReader(strings.NewReader(got.body))
		require.NoError(t, err)
		unzipped, err := io.ReadAll(reader)
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256([]byte(plain.body)), sha256.Sum256(unzipped))
	}
	for _, accepted := range []string{"br", "gzip;q=0", "*", "gzip;q=x"} {
		require.Empty(t, s.get(t, path, "Accept-Encoding", accepted).Header.Get("Content-Encoding"), accepted)
	}
}

func TestRanges(t *testing.T) {
	s := start(t, docsite.Config{})
	whole := s.get(t, "/docs/assets/site.css")
	part := s.get(t, "/docs/assets/site.css", "Range", "bytes=2-5")
	require.Equal(t, http.StatusPartialContent, part.StatusCode)
	require.Equal(t, whole.body[2:6], part.body)
}
