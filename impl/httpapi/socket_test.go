package httpapi_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/httpapi/httpapitest"
)

// pastTheWriter answers with a chunk of its own where there is a socket, and with "none" where there is none.
func pastTheWriter(c echo.Context) error {
	c.Response().WriteHeader(http.StatusOK)
	c.Response().Flush()
	socket := httpapi.Socket(c.Request().Context())
	if socket == nil {
		_, err := io.WriteString(c.Response(), "none")
		return err
	}
	return socket.Write(func(fd uintptr) bool {
		_, err := syscall.Write(int(fd), []byte("4\r\npast\r\n"))
		return err == nil
	})
}

func TestAResponseMayBeWrittenToTheSocketWhereNothingComesBetween(t *testing.T) {
	api, err := newAPI(t, nil)
	require.NoError(t, err)
	api.Echo.GET("/past", pastTheWriter)
	plain := startServer(t, api.Echo.ServeHTTP, nil)
	files := httpapitest.WriteCertificate(t, t.TempDir(), 1)
	certificate, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	secure := startServer(t, api.Echo.ServeHTTP, func(cfg *httpapi.ServerConfig) {
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	})

	overTLS := tls.Client(dial(t, secure), &tls.Config{RootCAs: files.Pool(t), ServerName: "127.0.0.1"})
	twice := dial(t, plain)
	for _, c := range []struct {
		what, version, body string
		conn                net.Conn
	}{
		{"HTTP/1.1", "1.1", "past", twice},
		{"HTTP/1.1 again, on the same connection", "1.1", "past", twice},
		{"HTTP/1.0, which knows no chunks", "1.0", "none", dial(t, plain)},
		{"TLS", "1.1", "none", overTLS},
	} {
		fmt.Fprintf(c.conn, "GET /past HTTP/%s\r\nHost: a\r\n\r\n", c.version)
		response, err := http.ReadResponse(bufio.NewReader(c.conn), nil)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, c.body, string(body), c.what)
	}
	require.Nil(t, httpapi.Socket(t.Context()), "outside of any request")
}
