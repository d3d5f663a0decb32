package httpapi_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
)

// Echo's and the generated code's errors have texts of their own, which may hold what was sent.
func TestFrameworkErrors(t *testing.T) {
	const secret = "sk-0123456789abcdef"
	for status, want := range map[int]int{400: 400, 404: 404, 405: 405, 413: 413, 415: 415, 429: 429, 500: 500, 418: 500, 0: 500} {
		api, err := newAPI(t, nil)
		require.NoError(t, err)
		api.Echo.GET("/fails", func(echo.Context) error {
			return echo.NewHTTPError(status, secret).SetInternal(errors.New(secret))
		})
		recorder := httptest.NewRecorder()
		api.Echo.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/fails", http.NoBody))
		require.Equal(t, want, recorder.Code)
		body, err := io.ReadAll(recorder.Body)
		require.NoError(t, err)
		require.NotContains(t, string(body), secret)
	}
}
