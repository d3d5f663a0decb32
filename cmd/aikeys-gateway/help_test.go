package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNoArgumentsPrintsHelp(t *testing.T) {
	got := runGateway(t, nil)
	require.Equal(t, exitOK, got.code)
	for _, text := range []string{"aikeysd admin dataplane create", "aikeys-gateway serve --token-file", "Exit codes: 0"} {
		require.Contains(t, got.stdout, text)
	}
}

func TestRefusedCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"srve":             "serve",
		"serve --lisen x":  "unknown flag: --lisen; see aikeys-gateway serve --help",
		"serve dp_hunter2": "aikeys-gateway serve takes no arguments",
	} {
		got := runGateway(t, nil, strings.Fields(line)...)
		require.Equal(t, exitUsage, got.code, line)
		require.Empty(t, got.stdout)
		require.Contains(t, got.stderr, says)
		require.NotContains(t, got.stderr, "hunter2")
	}
}
