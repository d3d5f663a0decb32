package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// sampleID is the key in the contract's samples.
const sampleID = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"

// samples are the command lines that the contract shows, by operation.
func samples(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../spec/aikeys.yaml")
	require.NoError(t, err)
	var contract struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(text, &contract))
	found := map[string]string{}
	for _, item := range contract.Paths {
		for method, node := range item {
			if method == "parameters" {
				continue
			}
			var operation struct {
				ID      string `yaml:"operationId"`
				Samples []struct {
					Label  string `yaml:"label"`
					Source string `yaml:"source"`
				} `yaml:"x-codeSamples"`
			}
			require.NoError(t, node.Decode(&operation))
			for _, sample := range operation.Samples {
				if sample.Label == "CLI" {
					found[operation.ID] = sample.Source
				}
			}
			require.Contains(t, found, operation.ID, "every operation has a command")
		}
	}
	return found
}

var commentedCommand = regexp.MustCompile(`(?m)^# +(.*\btare .*)$`)

// TestEverySampleOfTheContractRuns runs them as they stand, but for the key's id, in an order in which they make sense.
func TestEverySampleOfTheContractRuns(t *testing.T) {
	u := alice(t)
	u.env = append(u.env, "OPENAI_API_KEY="+aSecret)
	all := samples(t)
	id := ""
	t.Cleanup(func() { u.ok("api members set bob --role member"); u.ok("api policy set --reset") })
	for _, operation := range []string{
		"registerKey", "listKeys", "getKey", "resolveKey", "getPolicy", "setPolicy", "listEvents", "listMembers",
		"removeMember", "setMember", "listProviders", "whoAmI", "revokeKey",
	} {
		require.Contains(t, all, operation)
		source := strings.ReplaceAll(all[operation], sampleID, id)
		if other := commentedCommand.FindStringSubmatch(source); other != nil {
			id = anyKeyID.FindString(bash(t, u, "", other[1]))
			u.revoke(id)
		}
		out := bash(t, u, aSecret+"\n", source)
		require.NotContains(t, out, "hunter2")
		if operation == "registerKey" {
			id = anyKeyID.FindString(out)
			require.NotEmpty(t, id)
			t.Cleanup(func() { u.revoke(id) })
		}
		delete(all, operation)
	}
	require.Empty(t, all, "samples that this test does not run")
}

// bash runs a script with tare on its path.
func bash(t *testing.T, u *person, stdin, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = u.with("PATH=" + filepath.Dir(built.tare) + ":" + os.Getenv("PATH"))
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s\n%s%s", script, &stdout, &stderr)
	if !strings.HasPrefix(stderr.String(), "There are more: ") { // of a trail that has grown
		require.Empty(t, stderr.String(), script)
	}
	require.NotEmpty(t, stdout.String(), script)
	return stdout.String()
}
