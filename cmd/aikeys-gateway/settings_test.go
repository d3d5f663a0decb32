package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

func TestGatewaySettings(t *testing.T) {
	// loaded returns what settings make of flags and variables, and the complaints.
	loaded := func(t *testing.T, environ []string, args ...string) (*config, string) {
		t.Helper()
		p, cfg := newProgram(environ, nil, nil), newConfig()
		cmd := p.serveCommand()
		cmd.ResetFlags()
		cfg.addFlags(cmd.Flags())
		require.NoError(t, cmd.ParseFlags(args))
		if err := cfg.load(environ); err != nil {
			return cfg, err.Error()
		}
		return cfg, ""
	}
	t.Run("defaults need only a credential", func(t *testing.T) {
		cfg, complaints := loaded(t, nil)
		require.Equal(t, `AIKEYS_GATEWAY_TOKEN_FILE: is required, or AIKEYS_GATEWAY_CLIENT_CERT and AIKEYS_GATEWAY_CLIENT_KEY; `+
			`"aikeysd admin dataplane create" prints its content`, complaints)
		for _, d := range cfg.All() {
			require.NoError(t, d.Parse(d.Default), d.Name)
		}
		require.True(t, netaddr.IsLoopbackAddress(cfg.Listen) && netaddr.IsLoopbackAddress(cfg.OpsListen))
		require.Zero(t, cfg.MaxStale)
		require.InDelta(t, 60, cfg.FailedAuthLimit, 0)
		require.Empty(t, cfg.TrustedProxies, "X-Forwarded-For is anybody's to send")
		require.Empty(t, cfg.ForwardAuthListen+cfg.ExtAuthzListen, "what answers with keys is off")
	})

	t.Run("refused", func(t *testing.T) {
		dir := t.TempDir()
		file := func(name, text string) string {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			return path
		}
		openFile := file("open", dataplanetest.Token)
		require.NoError(t, os.Chmod(openFile, 0o604))
		pair, other := tlsfilestest.WriteCertificate(t, dir, 1), tlsfilestest.WriteCertificate(t, t.TempDir(), 2)
		cases := map[string]struct {
			environ, args []string
			says          []string
		}{
			"a credential in a variable":        {environ: []string{"AIKEYS_GATEWAY_TOKEN=dp_hunter2"}, says: []string{"AIKEYS_GATEWAY_TOKEN: no such setting"}},
			"a missing credential file":         {args: []string{"--token-file", filepath.Join(dir, "none")}, says: []string{"--token-file: ", "no such file"}},
			"a credential that others can read": {args: []string{"--token-file", openFile}, says: []string{"--token-file: ", fmt.Sprintf("run: chmod 600 %q", openFile)}},
			"a file that holds an API key":      {args: []string{"--token-file", file("ak", "ak_hunter2")}, says: []string{"--token-file: the file must hold the credential of a data plane"}},
			"a file that holds nothing":         {args: []string{"--token-file", file("empty", "\n")}, says: []string{"--token-file: the file must hold one word"}},
			"a token and a client certificate": {args: []string{"--client-cert", pair.CertFile, "--client-key", pair.KeyFile, "--control-plane", "https://aikeys.internal"},
				says: []string{"AIKEYS_GATEWAY_TOKEN_FILE, --client-cert and --client-key: give a token or a client certificate, not both"}},
			"a client certificate without its key": {environ: []string{"AIKEYS_GATEWAY_TOKEN_FILE="}, args: []string{"--client-cert", pair.CertFile},
				says: []string{"--client-cert and AIKEYS_GATEWAY_CLIENT_KEY: give both or none"}},
			"a client certificate with another's key": {environ: []string{"AIKEYS_GATEWAY_TOKEN_FILE="},
				args: []string{"--client-cert", pair.CertFile, "--client-key", other.KeyFile, "--control-plane", "https://aikeys.internal"},
				says: []string{"--client-cert and --client-key: ", "does not match"}},
			"a client certificate in the clear": {environ: []string{"AIKEYS_GATEWAY_TOKEN_FILE="}, args: []string{"--client-cert", pair.CertFile, "--client-key", pair.KeyFile},
				says: []string{"--client-cert: a client certificate needs https, and AIKEYS_GATEWAY_CONTROL_PLANE is http"}},
			"a control plane in the clear":      {args: []string{"--control-plane", "http://aikeys.internal:8081"}, says: []string{"--control-plane: beyond this machine", "--insecure=true"}},
			"a control plane with a password":   {args: []string{"--control-plane", "https://u:hunter2@aikeys.internal"}, says: []string{"--control-plane: must be"}},
			"a control plane that is no URL":    {args: []string{"--control-plane", "aikeys.internal:8081"}, says: []string{"--control-plane: must be"}},
			"an invalid authority":              {args: []string{"--control-plane-ca", file("ca", "hunter2")}, says: []string{"--control-plane-ca: ", "no certificate"}},
			"stale for too long":                {args: []string{"--max-stale", "61m"}, says: []string{"--max-stale: must be a duration from 0s to 1h"}},
			"a cache of nothing":                {args: []string{"--cache-size", "0"}, says: []string{"--cache-size"}},
			"an upstream in the clear":          {args: []string{"--upstream", "openai=http://llm.example"}, says: []string{"--upstream: the URL of openai must be https"}},
			"an upstream with a password":       {args: []string{"--upstream", "openai=https://u:hunter2@llm.example"}, says: []string{"--upstream: the URL of openai"}},
			"an upstream without its provider":  {args: []string{"--upstream", "https://llm.example"}, says: []string{"--upstream: must be provider=URL"}},
			"an upstream of no provider":        {args: []string{"--upstream", "opnai=https://llm.example/v1"}, says: []string{"--upstream: there is no provider opnai; this release knows openai, anthropic, "}},
			"an upstream's URL for its name":    {args: []string{"--upstream", "https://u:hunter2@x.example/?a=https://y.example"}, says: []string{"--upstream: there is no provider of that name"}},
			"two upstreams of one provider":     {args: []string{"--upstream", "a=https://x.example", "--upstream", "a=https://y.example"}, says: []string{"each provider once"}},
			"callers in the clear":              {args: []string{"--listen", ":8443"}, says: []string{"--listen: beyond this machine", "--tls-cert and --tls-key"}},
			"forward-auth beyond this machine":  {args: []string{"--forward-auth-listen", "0.0.0.0:8084", "--forward-auth-secret-file", file("one", "hunter2")}, says: []string{"--forward-auth-listen: its answers hold providers' keys"}},
			"ext_authz beyond this machine":     {args: []string{"--ext-authz-listen", ":8085", "--listen", ":8443", "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile}, says: []string{"--ext-authz-listen: its answers"}},
			"forward-auth for everybody":        {args: []string{"--forward-auth-listen", "127.0.0.1:8084"}, says: []string{"--forward-auth-listen: any program", "set --forward-auth-secret-file or --auth-client-ca"}},
			"proxies' certificates without our": {args: []string{"--auth-client-ca", pair.CertFile}, says: []string{"--auth-client-ca: needs --tls-cert and --tls-key"}},
			"a user that does not exist":        {args: []string{"--auth-socket-users", "nobody-of-that-name"}, says: []string{"--auth-socket-users: user: unknown user"}},
			"a socket without a path":           {args: []string{"--forward-auth-listen", "unix:"}, says: []string{"--forward-auth-listen: must be unix:<path>"}},
			"a forward-auth secret of two":      {args: []string{"--forward-auth-secret-file", file("two", "hunter2 hunter3")}, says: []string{"--forward-auth-secret-file: the file must hold one word"}},
			"one address for two listeners":     {args: []string{"--ext-authz-listen", "127.0.0.1:8092"}, says: []string{"--ext-authz-listen and AIKEYS_GATEWAY_OPS_LISTEN: must differ"}},
			"a certificate without its key":     {args: []string{"--tls-cert", pair.CertFile}, says: []string{"give both or none"}},
			"a certificate with another's key":  {args: []string{"--tls-cert", pair.CertFile, "--tls-key", other.KeyFile}, says: []string{"does not match"}},
			"everything at once, the file, too": {environ: []string{"AIKEYS_GATEWAY_TOKEN_FILE=", "AIKEYS_GATEWAY_MAX_STALE=2h"}, args: []string{"--log-level", "loud"}, says: []string{"TOKEN_FILE: is required", "MAX_STALE", "--log-level"}},
		}
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				environ := append([]string{gatewayEnviron(t, "", dataplanetest.Token)[4]}, tc.environ...)
				_, complaints := loaded(t, environ, tc.args...)
				for _, says := range tc.says {
					require.Contains(t, complaints, says)
				}
				require.NotContains(t, complaints, "hunter2")
				if !strings.HasPrefix(name, "everything") {
					require.Len(t, strings.Split(complaints, "\n"), 1)
				}
				var stderr bytes.Buffer
				require.Equal(t, cli.ExitUsage, run(t.Context(), append([]string{"serve"}, tc.args...), environ, io.Discard, &stderr))
				require.Equal(t, len(strings.Split(complaints, "\n")), strings.Count(stderr.String(), "aikeys-gateway: "))
			})
		}
	})

	t.Run("accepted", func(t *testing.T) {
		pair, gatewaySecret := tlsfilestest.WriteCertificate(t, t.TempDir(), 1), filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(gatewaySecret, []byte("opensesame"), 0o600))
		cases := map[string]struct {
			environ, args []string
			check         func(t *testing.T, cfg *config)
		}{
			"the control plane's settings, in the same file": {environ: []string{"AIKEYS_LISTEN=1", "AIKEYS_DATABASE_URL=x"}},
			"a Kubernetes Service of our name":               {environ: []string{"AIKEYS_GATEWAY_SERVICE_HOST=10.0.0.1", "AIKEYS_GATEWAY_PORT=tcp://10.0.0.1:80"}},
			"a control plane over TLS":                       {args: []string{"--control-plane", "https://aikeys.internal", "--control-plane-ca", pair.CertFile}},
			"a client certificate in place of a token": {environ: []string{"AIKEYS_GATEWAY_TOKEN_FILE="},
				args: []string{"--client-cert", pair.CertFile, "--client-key", pair.KeyFile, "--control-plane", "https://aikeys.internal"}},
			"a control plane on this machine by IPv6": {args: []string{"--control-plane", "http://[::1]:8081"}},
			"everything in the clear, on purpose": {args: []string{"--insecure", "--control-plane", "http://aikeys.internal", "--listen", ":8090",
				"--forward-auth-listen", ":8084", "--forward-auth-secret-file", gatewaySecret, "--ext-authz-listen", ":8085"}},
			"proxies on unix sockets": {args: []string{"--forward-auth-listen", "unix:/run/f.sock", "--ext-authz-listen", "unix:/run/e.sock", "--auth-socket-users", "0, root"}},
			"proxies over mutual TLS": {args: []string{"--forward-auth-listen", ":8084", "--ext-authz-listen", ":8085",
				"--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile, "--auth-client-ca", pair.CertFile}},
			"callers over TLS": {args: []string{"--listen", ":8443", "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile}},
			"an hour's grace": {args: []string{"--max-stale", "1h"}, check: func(t *testing.T, cfg *config) {
				require.Equal(t, time.Hour, cfg.MaxStale)
			}},
			"no limit of failures, and proxies": {args: []string{"--failed-auth-limit", "0", "--trusted-proxies", "10.0.0.0/8, 192.0.2.1"}, check: func(t *testing.T, cfg *config) {
				require.Zero(t, cfg.FailedAuthLimit)
				require.Len(t, cfg.TrustedProxies, 2)
			}},
			"upstreams, several to a flag and several flags": {
				args: []string{"--upstream", "openai=https://a.example/v1, anthropic=http://127.0.0.1:1", "--upstream", "gemini=https://g.example"},
				check: func(t *testing.T, cfg *config) {
					require.Len(t, cfg.Upstreams, 3)
					require.Equal(t, "https://a.example/v1", cfg.Upstreams["openai"].String())
					require.Equal(t, "https://g.example", cfg.Upstreams["gemini"].String())
				}},
			"a flag in place of the variable": {
				environ: []string{"AIKEYS_GATEWAY_UPSTREAM=openai=https://a.example"}, args: []string{"--upstream", "gemini=https://g.example"},
				check: func(t *testing.T, cfg *config) { require.Len(t, cfg.Upstreams, 1) }},
		}
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				environ := append([]string{gatewayEnviron(t, "", dataplanetest.Token)[4]}, tc.environ...)
				cfg, complaints := loaded(t, environ, tc.args...)
				require.Empty(t, complaints)
				if tc.check != nil {
					tc.check(t, cfg)
				}
			})
		}
	})
}
