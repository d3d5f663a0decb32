package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOwnersAddServersAndRegisterTheirKeys(t *testing.T) {
	u := alice(t)
	added := u.runOK("api providers add x-lab --base-url https://llm.example/v1 --header X-Llm-Key --name Lab")
	require.Contains(t, added, "X-Llm-Key")
	t.Cleanup(func() { u.runOK("api providers remove x-lab --yes") })
	require.Contains(t, u.runOK("api providers list --custom"), "https://llm.example/v1")
	require.Contains(t, u.run("__complete api byok list --provider x").Stdout, "x-lab")
	require.Contains(t, u.runOK("api byok events --type provider.created"), "base_url: none → https://llm.example/v1")
	for command, want := range map[string]string{
		"api providers add x-b": "--base-url is required",
		"api providers add x-b --base-url http://a --auth none --header K": "exclude each other",
		"api providers add x-b --base-url http://169.254.169.254":          "metadata",
		"api providers add x-lab --base-url https://llm.example/v2":        "choose another slug",
		"api providers x-b": "no such command",
	} {
		require.Contains(t, u.run(command).Stderr, want, command)
	}
}
