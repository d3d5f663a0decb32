package main

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := newConfig()
	require.NoError(t, cfg.load(nil))
	for _, d := range cfg.All() {
		require.NoError(t, d.Parse(d.Default), d.Name)
	}
	_, isSocket := cfg.socketPath()
	require.True(t, isSocket)
	require.True(t, netaddr.IsLoopbackAddress(cfg.OpsListen))
	require.Equal(t, lockAuto, cfg.LockMemory)
}

func TestRefusedSettings(t *testing.T) {
	for name, tc := range map[string]struct {
		environ, args []string
		says          []string
	}{
		"plain TCP":                 {args: []string{"--listen", "127.0.0.1:8443"}, says: []string{"TLS_CERT: is required", "TLS_KEY: is required", "TLS_CLIENT_CA: is required"}},
		"clients without a CA":      {args: []string{"--listen", ":8443", "--tls-cert", "a", "--tls-key", "b"}, says: []string{"SECRETS_SVC_TLS_CLIENT_CA: is required, as --listen is not a unix socket"}},
		"TLS on a socket":           {args: []string{"--tls-cert", "a"}, says: []string{"--tls-cert: is for mutual TLS"}},
		"a group without a socket":  {args: []string{"--listen", ":1", "--tls-cert", "a", "--tls-key", "b", "--tls-client-ca", "c", "--socket-group", "g"}, says: []string{"--socket-group: is for a unix socket"}},
		"no address":                {args: []string{"--listen", "secrets"}, says: []string{"--listen: must be unix:<path> or host:port"}},
		"a socket without a path":   {args: []string{"--listen", "unix:"}, says: []string{"--listen: must be unix:<path> or host:port"}},
		"a path that is too long":   {args: []string{"--listen", "unix:/" + strings.Repeat("x", 103)}, says: []string{"--listen: the path of a unix socket may have at most 103 bytes"}},
		"a mistyped variable":       {environ: []string{"SECRETS_SVC_LISTN=hunter2"}, says: []string{"did you mean SECRETS_SVC_LISTEN?"}},
		"a key in a variable":       {environ: []string{"SECRETS_SVC_KEK=hunter2"}, says: []string{"SECRETS_SVC_KEK: no such setting"}},
		"no choice":                 {args: []string{"--lock-memory", "yes"}, says: []string{"--lock-memory: must be one of auto, require, off"}},
		"too much at once":          {args: []string{"--max-concurrent", "10001"}, says: []string{"--max-concurrent: must be a whole number from 0 to 10000"}},
		"another sealer":            {args: []string{"--sealer", "hunter2"}, says: []string{"--sealer: must be local, or with {namespace} in the name of the key: vault+https://"}},
		"a key for all namespaces":  {args: []string{"--sealer", "vault+https://h/transit/k?token_file=/t"}, says: []string{"--sealer: must have {namespace} in the name of the key"}},
		"no way to log in":          {args: []string{"--sealer", "vault+https://h/transit/{namespace}"}, says: []string{"--sealer: needs one way to log in"}},
		"the old sealer as new":     {args: []string{"--sealer-old", "local"}, says: []string{"--sealer-old: names the same sealer as SECRETS_SVC_SEALER"}},
		"a queue of less than none": {args: []string{"--max-queue", "-1"}, says: []string{"--max-queue: must be a whole number"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := install(t).run(tc.environ, append([]string{"serve"}, tc.args...)...)
			require.Equal(t, cli.ExitUsage, got.Code)
			require.Equal(t, len(tc.says), strings.Count(got.Stderr, "\n"), got.Stderr)
			for _, says := range tc.says {
				require.Contains(t, got.Stderr, says)
			}
			require.NotContains(t, got.Stderr, "hunter2")
		})
	}
}

func TestUnreadableFilesAtStartAreReported(t *testing.T) {
	i := install(t)
	i.create()
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"no clients file":     {[]string{"--clients", i.path("none")}, "--clients: clients file: open"},
		"no such group":       {[]string{"--socket-group", "no-such-group"}, "unknown group"},
		"no audit folder":     {[]string{"--audit-log", i.path("none/audit")}, "--audit-log: open"},
		"no certificate":      {[]string{"--listen", "127.0.0.1:0", "--tls-cert", i.path("none"), "--tls-key", i.path("none"), "--tls-client-ca", i.path("none")}, "--tls-cert and --tls-key: TLS certificate"},
		"a taken ops address": {[]string{"--ops-listen", "256.0.0.1:1"}, "--ops-listen: "},
	} {
		got := i.run(nil, append([]string{"serve", "--lock-memory", "off"}, tc.args...)...)
		require.Equal(t, cli.ExitFailure, got.Code, name)
		require.Contains(t, got.Stderr, tc.says, name)
		require.NoFileExists(t, i.path("api.sock"), name)
	}
}

func TestDocsListMetrics(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/secrets.md")
	require.NoError(t, err)
	onPage := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bsecrets_svc_[a-z_]+`).FindAllString(string(text), -1) {
		onPage[name] = true
	}
	i := install(t)
	i.create()
	s := i.launch()
	sealertest.MustSeal(t, i.client())
	shown := programtest.Send(http.MethodGet, s.URL("ops")+"/metrics", "", "").Body
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (secrets_svc_\w+) `).FindAllStringSubmatch(shown, -1) {
		require.True(t, onPage[m[1]], m[1])
		delete(onPage, m[1])
	}
	require.Empty(t, onPage, "these are no metrics")
}
