package tlsfiles_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/filereload/filereloadtest"
	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

func TestKeyThatOthersCanReadIsRefused(t *testing.T) {
	files := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
	require.NoError(t, os.Chmod(files.CertFile, 0o644)) // a certificate is public
	_, err := tlsfiles.ReadPair(files.CertFile, files.KeyFile)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(files.KeyFile, 0o644))
	_, err = tlsfiles.ReadPair(files.CertFile, files.KeyFile)
	require.ErrorIs(t, err, secretfile.ErrInsecure)
	require.ErrorContains(t, err, "chmod 600")
}

func TestRenewal(t *testing.T) {
	// handshake runs a TLS handshake through a pipe. The error is the server's.
	handshake := func(server, client *tls.Config) (tls.ConnectionState, error) {
		near, far := net.Pipe()
		defer func() { _ = near.Close() }()
		served := make(chan error, 1)
		go func() {
			conn := tls.Server(far, server)
			err := conn.HandshakeContext(context.WithoutCancel(t.Context()))
			_ = conn.Close()
			served <- err
		}()
		conn := tls.Client(near, client)
		_ = conn.HandshakeContext(t.Context()) // the server's error says why
		state := conn.ConnectionState()
		_ = near.Close()
		return state, <-served
	}
	t.Run("of a pair", func(t *testing.T) {
		files, log := tlsfilestest.WriteCertificate(t, t.TempDir(), 1), &bytes.Buffer{}
		own, err := tlsfiles.OpenPair("TLS certificate", files.CertFile, files.KeyFile, slog.New(slog.NewTextHandler(log, nil)))
		require.NoError(t, err)
		serial := func() int64 { // of the certificate that a new connection gets
			// The client reads the certificate's name in the goroutine in which the server checks its files.
			client, _ := handshake(tlsfiles.ServerConfig(own), &tls.Config{InsecureSkipVerify: true})
			return client.PeerCertificates[0].SerialNumber.Int64()
		}
		require.EqualValues(t, 1, serial())
		next := tlsfilestest.WriteCertificate(t, t.TempDir(), 2)
		certificate, err := os.ReadFile(next.CertFile)
		require.NoError(t, err)
		key, err := os.ReadFile(next.KeyFile)
		require.NoError(t, err)

		require.NoError(t, os.WriteFile(files.CertFile, certificate, 0o600)) // half a renewal: the key does not match
		filereloadtest.ReplaceAfterFailure(t, files.KeyFile, key, func() bool {
			require.EqualValues(t, 1, serial())
			return strings.Contains(log.String(), "failed to find any PEM data in key input")
		})
		require.Eventually(t, func() bool { return serial() == 2 }, 5*time.Second, 10*time.Millisecond)
		require.Contains(t, log.String(), `what="TLS certificate" expires=`)
	})
	t.Run("of authorities", func(t *testing.T) {
		own := tlsfilestest.WriteCertificate(t, t.TempDir(), 1)
		pair, err := tlsfiles.OpenPair("own", own.CertFile, own.KeyFile, nil)
		require.NoError(t, err)
		before, after := tlsfilestest.NewAuthority(t), tlsfilestest.NewAuthority(t)
		log := &bytes.Buffer{}
		file := before.Write(t, filepath.Join(t.TempDir(), "ca.crt"))
		pool, err := tlsfiles.OpenPool("client CA file", file, slog.New(slog.NewTextHandler(log, nil)))
		require.NoError(t, err)
		server := tlsfiles.MutualConfig(pair, pool, tls.RequireAndVerifyClientCert, tls.VersionTLS12)
		accepts := func(a *tlsfilestest.Authority) bool {
			certificate := a.Issue(t, t.TempDir(), tlsfilestest.Named("edge"))
			_, err := handshake(server, &tls.Config{InsecureSkipVerify: true, GetClientCertificate: certificate.Show(t)})
			return err == nil
		}
		require.True(t, accepts(before))
		text, err := os.ReadFile(after.Write(t, filepath.Join(t.TempDir(), "ca.crt")))
		require.NoError(t, err)
		filereloadtest.ReplaceAfterFailure(t, file, text, func() bool {
			require.True(t, accepts(before), "the old authorities stay in force")
			return strings.Contains(log.String(), "holds no certificate in PEM")
		})
		require.Eventually(t, func() bool { return accepts(after) }, 5*time.Second, 10*time.Millisecond)
		require.False(t, accepts(before))
	})
}

func TestUnusableFiles(t *testing.T) {
	first, second := tlsfilestest.WriteCertificate(t, t.TempDir(), 1), tlsfilestest.WriteCertificate(t, t.TempDir(), 2)
	_, err := tlsfiles.OpenPair("own", first.CertFile, second.KeyFile, nil)
	require.ErrorContains(t, err, "does not match")
	_, err = tlsfiles.ReadPair(first.CertFile, first.KeyFile+".missing")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = tlsfiles.OpenPool("CA file", first.KeyFile, nil)
	require.ErrorContains(t, err, "holds no certificate in PEM")
	_, err = tlsfiles.ReadPool(first.CertFile + ".missing")
	require.ErrorIs(t, err, os.ErrNotExist)
}
