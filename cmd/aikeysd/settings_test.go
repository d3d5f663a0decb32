package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

func TestLifetimes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "720h": 720 * time.Hour, "1h30m": 90 * time.Minute, "30d": 720 * time.Hour, "0d": 0,
	} {
		got, err := lifetime(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "d", "-1d", "-1h", "1.5d", "30", "1d12h", "65536d", "1y"} {
		_, err := lifetime(text)
		require.Error(t, err, text)
	}
}

func TestDefaultsAreSound(t *testing.T) {
	cfg := newConfig()
	require.NoError(t, cfg.loadToServe(nil))
	for _, d := range cfg.All() {
		if d.Default != "" {
			require.NoError(t, d.Parse(d.Default), d.Name)
		}
	}
	require.Equal(t, "sqlite:data/aikeys.db", cfg.DatabaseURL)
	require.True(t, netaddr.IsLoopbackAddress(cfg.Listen) && netaddr.IsLoopbackAddress(cfg.DataplaneListen) && netaddr.IsLoopbackAddress(cfg.OpsListen))
	require.Equal(t, 30*24*time.Hour, cfg.FetchRetention)
	require.Equal(t, 90*24*time.Hour, cfg.UsageRetention)
}

func TestSettingsThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	urlFile := filepath.Join(dir, "url")
	require.NoError(t, os.WriteFile(urlFile, []byte("mysql://root:hunter2@db/x\n"), 0o600))
	brokenFile := filepath.Join(dir, "broken")
	require.NoError(t, os.WriteFile(brokenFile, []byte("postgres://u:p/hunter2@h/db"), 0o600))
	pair, other := tlsfilestest.WriteCertificate(t, dir, 1), tlsfilestest.WriteCertificate(t, t.TempDir(), 2)
	cases := map[string]struct {
		environ, args []string
		says          []string
	}{
		"an unknown variable, with the nearest known one": {
			environ: []string{"AIKEYS_LISTN=127.0.0.1:1"}, says: []string{"AIKEYS_LISTN", "AIKEYS_LISTEN?"}},
		"an unknown variable that is near none": {
			environ: []string{"AIKEYS_FOO=1"}, says: []string{"AIKEYS_FOO: no such setting; aikeysd serve --help"}},
		"a setting of another program": {
			environ: []string{"AIKEYS_SECRETS_LISTEN=1"}, says: []string{"AIKEYS_SECRETS_LISTEN: no such setting; aikeysd serve --help"}},
		"a variable that only resembles the gateway's": {
			environ: []string{"AIKEYS_GATEWAYS_LISTEN=1"}, says: []string{"AIKEYS_GATEWAYS_LISTEN: no such setting"}},
		"a password with a slash": {
			environ: []string{"AIKEYS_DATABASE_URL=postgres://u:p/hunter2@h/db"}, says: []string{"AIKEYS_DATABASE_URL: ", "%2F"}},
		"a URL in a file that is none": {
			environ: []string{"AIKEYS_DATABASE_URL_FILE=" + brokenFile}, says: []string{"AIKEYS_DATABASE_URL_FILE: ", "%2F"}},
		"a database in memory": {
			environ: []string{"AIKEYS_DATABASE_URL=sqlite::memory:"}, says: []string{"AIKEYS_DATABASE_URL: must be sqlite:<path>"}},
		"a certificate that is not there": {
			environ: []string{"AIKEYS_TLS_KEY=/nowhere/tls.key"}, args: []string{"--tls-cert", "/nowhere/tls.crt"},
			says: []string{"--tls-cert and AIKEYS_TLS_KEY: ", "/nowhere/tls.crt"}},
		"a certificate with another's key": {
			args: []string{"--tls-cert", pair.CertFile, "--tls-key", other.KeyFile}, says: []string{"--tls-cert and --tls-key: ", "does not match"}},
		"client certificates without TLS": {
			args: []string{"--dataplane-client-ca", pair.CertFile}, says: []string{"--dataplane-client-ca: client certificates need TLS; set --tls-cert and --tls-key"}},
		"client authorities that are not there": {
			environ: []string{"AIKEYS_DATAPLANE_CLIENT_CA=/nowhere/ca.crt"}, args: []string{"--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile},
			says: []string{"AIKEYS_DATAPLANE_CLIENT_CA: ", "/nowhere/ca.crt"}},
		"client authorities that are none": {
			args: []string{"--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile, "--dataplane-client-ca", pair.KeyFile},
			says: []string{"--dataplane-client-ca: ", "holds no certificate in PEM"}},
		"a password in a flag": {
			args: []string{"--database-url", "postgres://u:hunter2@db/x"}, says: []string{"--database-url", "AIKEYS_DATABASE_URL_FILE"}},
		"a password in a flag's query": {
			args: []string{"--database-url", "postgres://db/x?password=hunter2"}, says: []string{"AIKEYS_DATABASE_URL_FILE"}},
		"a password in a flag's query, that of a client key": {
			args: []string{"--database-url", "postgres://db/x?sslpassword=hunter2"}, says: []string{"AIKEYS_DATABASE_URL_FILE"}},
		"a password in a flag that is no URL": {
			args: []string{"--database-url", "postgres://u:hunter2%@db/x"}, says: []string{"AIKEYS_DATABASE_URL_FILE"}},
		"a database of another kind": {
			environ: []string{"AIKEYS_DATABASE_URL=mysql://u:hunter2@db/x"}, says: []string{"AIKEYS_DATABASE_URL: must be sqlite:"}},
		"a database of another kind in a file": {
			environ: []string{"AIKEYS_DATABASE_URL_FILE=" + urlFile}, says: []string{"AIKEYS_DATABASE_URL_FILE: must be sqlite:"}},
		"a file that is not there": {
			environ: []string{"AIKEYS_DATABASE_URL_FILE=" + urlFile + "2"}, says: []string{"no such file"}},
		"a database and a file": {
			environ: []string{"AIKEYS_DATABASE_URL_FILE=" + urlFile}, args: []string{"--database-url", "sqlite:x"},
			says: []string{"--database-url and AIKEYS_DATABASE_URL_FILE"}},
		"an empty variable that has a default": {
			environ: []string{"AIKEYS_DATABASE_URL="}, says: []string{"AIKEYS_DATABASE_URL: must not be empty"}},
		"no TLS beyond this machine":       {args: []string{"--listen", "0.0.0.0:8443"}, says: []string{"--listen", "--insecure=true"}},
		"no TLS on every interface":        {args: []string{"--listen", ":8443"}, says: []string{"--listen", "set --tls-cert and --tls-key"}},
		"no TLS on another machine's name": {args: []string{"--listen", "api.internal:8443"}, says: []string{"--listen"}},
		"a certificate without its key":    {args: []string{"--tls-cert", pair.CertFile}, says: []string{"give both or none"}},
		"one address for both listeners":   {args: []string{"--listen", "127.0.0.1:7", "--ops-listen", "127.0.0.1:7"}, says: []string{"must differ"}},
		"one address for both APIs": {
			args: []string{"--dataplane-listen", "127.0.0.1:8080"}, says: []string{"AIKEYS_LISTEN and --dataplane-listen: must differ"}},
		"one address for data planes and ops": {
			args: []string{"--ops-listen", "127.0.0.1:8081"}, says: []string{"AIKEYS_DATAPLANE_LISTEN and --ops-listen: must differ"}},
		"no TLS beyond this machine for data planes": {
			args: []string{"--dataplane-listen", "0.0.0.0:8444"}, says: []string{"--dataplane-listen: beyond", "--tls-cert", "--insecure"}},
		"a grace that is too long":      {args: []string{"--max-stale-limit", "61m"}, says: []string{"--max-stale-limit: must be a duration from 0s to 1h"}},
		"a retention that is none":      {args: []string{"--fetch-retention", "1y"}, says: []string{"--fetch-retention: must be hours or days"}},
		"an address without a port":     {args: []string{"--listen", "127.0.0.1"}, says: []string{"host:port"}},
		"another sealer":                {args: []string{"--sealer", "memory:key"}, says: []string{"--sealer: must be local:"}},
		"a sealer without a path":       {args: []string{"--sealer", "local:"}, says: []string{"--sealer"}},
		"a socket without a path":       {args: []string{"--sealer", "secrets+unix:"}, says: []string{"--sealer: must be local:"}},
		"a sealer without a port":       {args: []string{"--sealer", "secrets+https://h"}, says: []string{"--sealer: must be local:"}},
		"a sealer with a path":          {args: []string{"--sealer", "secrets+https://h:1/v1"}, says: []string{"--sealer: must be local:"}},
		"a sealer with a password":      {args: []string{"--sealer", "secrets+https://u:hunter2@h:1"}, says: []string{"--sealer: must be local:"}},
		"a sealer in clear text":        {args: []string{"--sealer", "secrets+http://h:1"}, says: []string{"--sealer: must be local:"}},
		"TLS to a sealer without files": {args: []string{"--sealer", "secrets+https://h:1", "--sealer-cert", pair.CertFile}, says: []string{"--sealer-cert, AIKEYS_SEALER_KEY and AIKEYS_SEALER_CA: are for"}},
		"files for TLS without TLS":     {environ: []string{"AIKEYS_SEALER_CA=" + pair.CertFile}, says: []string{"AIKEYS_SEALER_CA: are for"}},
		"files for TLS that do not fit": {
			args: []string{"--sealer", "secrets+https://h:1", "--sealer-cert", pair.CertFile, "--sealer-key", other.KeyFile, "--sealer-ca", pair.CertFile},
			says: []string{"--sealer-cert, --sealer-key and --sealer-ca: secrets-svc: TLS certificate ", "does not match"}},
		"a key for TLS that is not there": {
			args: []string{"--sealer", "secrets+https://h:1", "--sealer-cert", pair.CertFile, "--sealer-key", "/nowhere/tls.key", "--sealer-ca", pair.CertFile},
			says: []string{"--sealer-key: open /nowhere/tls.key: no such file"}},
		"authorities for TLS that are none": {
			args: []string{"--sealer", "secrets+https://h:1", "--sealer-cert", pair.CertFile, "--sealer-key", pair.KeyFile, "--sealer-ca", pair.KeyFile},
			says: []string{"--sealer-ca: secrets-svc: authorities: ", "no certificate in PEM"}},
		"an old sealer that is none":    {args: []string{"--sealer-old", "local:a,b"}, says: []string{"--sealer-old: must be sealers with commas between"}},
		"the sealer as an old one":      {args: []string{"--sealer-old", "local:data/keyset.json"}, says: []string{"--sealer-old: names AIKEYS_SEALER itself"}},
		"an issuer without an audience": {args: []string{"--oidc-issuer", "https://issuer.example"}, says: []string{"audience"}},
		"an issuer over plain HTTP":     {args: []string{"--oidc-issuer", "http://issuer.example", "--oidc-audience", "a"}, says: []string{"https"}},
		"a client without an issuer":    {args: []string{"--oidc-client-id", "tare"}, says: []string{"AIKEYS_OIDC_ISSUER: is required"}},
		"claims without an issuer":      {args: []string{"--oidc-claims", "user=sub"}, says: []string{"AIKEYS_OIDC_ISSUER: is required"}},
		"origins with a wildcard":       {args: []string{"--cors-origins", "https://app.example.com,https://*.example.com"}, says: []string{"--cors-origins", "must be an origin"}},
		"proxies that are no networks":  {args: []string{"--trusted-proxies", "10.0.0.0/8,proxy"}, says: []string{"--trusted-proxies"}},
		"a number that is none":         {args: []string{"--rate-limit", "NaN"}, says: []string{"--rate-limit"}},
		"a negative number":             {args: []string{"--failed-auth-limit", "-1"}, says: []string{"--failed-auth-limit"}},
		"no connections":                {args: []string{"--db-max-conns", "0"}, says: []string{"from 1 to 1000"}},
		"no time to shut down":          {args: []string{"--shutdown-timeout", "0s"}, says: []string{"--shutdown-timeout"}},
		"a switch that is neither":      {environ: []string{"AIKEYS_INSECURE=1"}, says: []string{"true or false"}},
		"a choice that there is not":    {environ: []string{"AIKEYS_MIGRATE=maybe"}, says: []string{"auto, never"}},
		"everything at once":            {environ: []string{"AIKEYS_LISTN=x", "AIKEYS_DB_MAX_CONNS=x", "AIKEYS_LISTEN=0.0.0.0:1"}, args: []string{"--log-level", "loud"}, says: []string{"AIKEYS_LISTN", "AIKEYS_DB_MAX_CONNS", "AIKEYS_LISTEN: beyond", "--log-level"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, tc.environ, append([]string{"serve"}, tc.args...)...)
			require.Equal(t, exitUsage, got.Code)
			for _, says := range tc.says {
				require.Contains(t, got.Stderr, says)
			}
			require.NotContains(t, got.Stderr, "hunter2")
			if name != "everything at once" {
				require.Equal(t, 1, strings.Count(got.Stderr, "\n"), got.Stderr)
			}
		})
	}
}

func TestSettingsThatAreAccepted(t *testing.T) {
	dir := t.TempDir()
	urlFile := filepath.Join(dir, "url")
	require.NoError(t, os.WriteFile(urlFile, []byte("postgres://u:hunter2@db/x\n"), 0o600))
	pair := tlsfilestest.WriteCertificate(t, dir, 1)
	cases := map[string]struct {
		environ, args []string
		check         func(t *testing.T, cfg *config)
	}{
		"a password in a variable":           {environ: []string{"AIKEYS_DATABASE_URL=postgres://u:hunter2@db/x"}},
		"a URL without a password in a flag": {args: []string{"--database-url", "postgres://u@db/x"}},
		"a database URL in a file": {environ: []string{"AIKEYS_DATABASE_URL_FILE=" + urlFile}, check: func(t *testing.T, cfg *config) {
			require.Equal(t, "postgres://u:hunter2@db/x", cfg.DatabaseURL, "without its line end")
		}},
		"beyond this machine behind a proxy": {args: []string{"--listen", ":8080", "--insecure"}},
		"data planes beyond this machine with TLS": {args: []string{
			"--dataplane-listen", ":8444", "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile}},
		"fetches kept forever": {args: []string{"--fetch-retention", "0"}, check: func(t *testing.T, cfg *config) {
			require.Zero(t, cfg.FetchRetention)
		}},
		"usage kept forever": {args: []string{"--usage-retention", "0"}, check: func(t *testing.T, cfg *config) {
			require.Zero(t, cfg.UsageRetention)
		}},
		"fetches kept for days": {environ: []string{"AIKEYS_FETCH_RETENTION=7d"}, check: func(t *testing.T, cfg *config) {
			require.Equal(t, 7*24*time.Hour, cfg.FetchRetention)
		}},
		"beyond this machine with TLS": {args: []string{"--listen", ":8080", "--tls-cert", pair.CertFile, "--tls-key", pair.KeyFile}},
		"IPv6 on this machine":         {args: []string{"--listen", "[::1]:8080"}},
		"ops beyond this machine":      {args: []string{"--ops-listen", "0.0.0.0:8082"}},
		"listeners on any free port": {
			args: []string{"--listen", "127.0.0.1:0", "--dataplane-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"}},
		"no limits": {args: []string{"--rate-limit", "0", "--failed-auth-limit", "0"}},
		"networks and addresses": {args: []string{"--trusted-proxies", "10.0.0.0/8, 192.0.2.1,fd00::/8"}, check: func(t *testing.T, cfg *config) {
			require.Len(t, cfg.TrustedProxies, 3)
			require.Equal(t, "192.0.2.1/32", cfg.TrustedProxies[1].String())
		}},
		"an empty variable without a default":      {environ: []string{"AIKEYS_TLS_CERT=", "AIKEYS_DATABASE_URL_FILE="}},
		"the gateway's settings, in the same file": {environ: []string{"AIKEYS_GATEWAY_LISTEN=1", "AIKEYS_GATEWAY_SERVICE_HOST=10.0.0.1"}},
		"a Kubernetes Service of our name": {environ: []string{
			"AIKEYS_SERVICE_HOST=10.0.0.1", "AIKEYS_SERVICE_PORT=80", "AIKEYS_SERVICE_PORT_HTTP=80", "AIKEYS_PORT=tcp://10.0.0.1:80",
			"AIKEYS_PORT_80_TCP=tcp://10.0.0.1:80", "AIKEYS_PORT_80_TCP_PROTO=tcp",
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cfg, flags := newConfig(), pflag.NewFlagSet("", pflag.ContinueOnError)
			cfg.AddFlags(flags)
			require.NoError(t, flags.Parse(tc.args))
			require.NoError(t, cfg.loadToServe(tc.environ))
			if tc.check != nil {
				tc.check(t, cfg)
			}
		})
	}
}

func TestWrongSettingsAreFoundFirst(t *testing.T) {
	for name, changes := range map[string][]string{
		"a database URL that is none":     {"AIKEYS_DATABASE_URL=postgres://u:p/hunter2@h/db"},
		"a certificate that is not there": {"AIKEYS_TLS_CERT=/nowhere/tls.crt", "AIKEYS_TLS_KEY=/nowhere/tls.key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for _, command := range []string{"serve", "check"} {
				got := aikeysd(t, changes, command)
				require.Equal(t, exitUsage, got.Code)
				require.Contains(t, got.Stderr, strings.Split(changes[0], "=")[0])
				require.NotContains(t, got.Stderr, "hunter2")
			}
			require.NoDirExists(t, "data")
		})
	}
	t.Run("operators' commands need no certificate", func(t *testing.T) {
		mustAikeysd(t, with(newEnviron(t), "AIKEYS_TLS_CERT=/nowhere/tls.crt", "AIKEYS_TLS_KEY=/nowhere/tls.key"), "migrate", "up")
	})
}

func TestDatabaseNamesHoldNoCredentials(t *testing.T) {
	t.Chdir(t.TempDir())
	folder, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, "sqlite:"+folder+"/a.db", databaseName("sqlite:a.db"), "wherever it is read")
	require.Equal(t, "postgres://db:5432/keys", databaseName("postgres://u:hunter2@db:5432/keys?password=hunter2&sslmode=disable"))
	require.Equal(t, "the database", databaseName("postgres://u:hunter2%@db/keys"))
}
