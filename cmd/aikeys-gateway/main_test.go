package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func TestNoArgumentsPrintsHelp(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, cli.ExitOK, run(t.Context(), nil, nil, &stdout, &stderr))
	for _, text := range []string{"aikeysd admin dataplane create", "aikeys-gateway serve --token-file", "Exit codes: 0"} {
		require.Contains(t, stdout.String(), text)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"srve":             "serve",
		"serve --lisen x":  "unknown flag: --lisen; see aikeys-gateway serve --help",
		"serve dp_hunter2": "aikeys-gateway serve takes no arguments",
	} {
		var stdout, stderr bytes.Buffer
		require.Equal(t, cli.ExitUsage, run(t.Context(), strings.Fields(line), nil, &stdout, &stderr), line)
		require.Empty(t, stdout.String())
		require.Contains(t, stderr.String(), says)
		require.NotContains(t, stderr.String(), "hunter2")
	}
}
