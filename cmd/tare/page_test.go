package main

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// TestPageSession runs the blocks of docs/tare.md in order and compares their output.
func TestPageSession(t *testing.T) {
	sessionBlock := regexp.MustCompile("(?s)```bash session\n(.*?\n)```\n(?:\n```text\n(.*?\n)```\n)?")
	volatile := map[string]*regexp.Regexp{ // what differs between runs
		"ULID":   regexp.MustCompile(`[0-7][0-9A-HJKMNP-TV-Z]{25}`),
		"TIME":   regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`),
		"AGO":    regexp.MustCompile(`just now|\d+s ago`),
		"N ms":   regexp.MustCompile(`\d+ ms`),
		"SERVER": regexp.MustCompile(`http://127\.0\.0\.1:\d+`),
		" ":      regexp.MustCompile(` +`), // columns are as wide as their widest cell
	}
	normalize := func(text string) string {
		for to, each := range volatile {
			text = each.ReplaceAllString(text, to)
		}
		return text
	}
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	blocks := sessionBlock.FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(blocks), 6)
	script := "set -euo pipefail\n"
	for _, b := range blocks {
		script += b[1] + "printf '\\0'\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = filepath.Dir(live.tare)
	cmd.Env = newUser(t, "PATH="+cmd.Dir+":"+os.Getenv("PATH")).env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	printed := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	require.Len(t, printed, len(blocks))
	for i, b := range blocks {
		require.Equal(t, normalize(b[2]), normalize(printed[i]), b[1])
	}
}

// TestSamplesOfTheDocumentRun runs the samples unchanged except for the key's id, in an order that makes sense.
func TestSamplesOfTheDocumentRun(t *testing.T) {
	u := alice(t)
	u.env = append(u.env, "OPENAI_API_KEY="+testSecret, "PATH="+filepath.Dir(live.tare)+":"+os.Getenv("PATH"))
	text, err := os.ReadFile("../../spec/aikeys.yaml")
	require.NoError(t, err)
	var contract struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(text, &contract))
	all := map[string]string{}
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
					all[operation.ID] = sample.Source
				}
			}
			require.Contains(t, all, operation.ID, "every operation has a command")
		}
	}
	folder := t.TempDir()
	runScript := func(stdin, script string) string {
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
		cmd.Env, cmd.Dir = u.env, folder
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
		require.NoError(t, cmd.Run(), "%s\n%s%s", script, &stdout, &stderr)
		if strings.HasPrefix(stderr.String(), "No use of a key") || strings.HasPrefix(stderr.String(), "No data plane") { // none serves here
			return ""
		}
		if !strings.HasPrefix(stderr.String(), "There are more: ") { // the trail may be longer than one page
			require.Empty(t, stderr.String(), script)
		}
		require.NotEmpty(t, stdout.String(), script)
		return stdout.String()
	}
	commentedCommand := regexp.MustCompile(`(?m)^# +(.*\btare .*)$`)
	const sampleToken = "01M7W0BTX000000000000000AK"
	id, token := "", ""
	t.Cleanup(func() { u.runOK("api members set bob --role member"); u.runOK("api policy set --reset") })
	for _, operation := range []string{
		"registerKey", "listKeys", "getKey", "resolveKey", "getPolicy", "setPolicy", "listEvents", "listUsage", "listFetches", "listMembers",
		"getMemberImpact", "removeMember", "restoreMember", "setMember", "listProviders", "getSignInOptions", "whoAmI", "updateKey", "rotateKey", "listKeyVersions",
		"rollbackKey", "activateKeyVersion", "destroyKeyVersion", "findLeaks", "revokeKey",
		"addCustomProvider", "listCustomProviders", "removeCustomProvider",
		"listProjects", "createToken", "listTokens", "listProjectTokens", "revokeProjectToken", "revokeToken",
	} {
		require.Contains(t, all, operation)
		source := strings.ReplaceAll(strings.ReplaceAll(all[operation], sampleID, id), sampleToken, token)
		source = regexp.MustCompile(` (remove|revoke|destroy) `).ReplaceAllString(source, " $1 --yes ") // there is no terminal to confirm on
		if other := commentedCommand.FindStringSubmatch(source); other != nil {
			id = keyIDPattern.FindString(runScript("", other[1]))
			u.revokeKey(id)
		}
		input := testSecret
		if operation == "rotateKey" {
			input = strings.Replace(testSecret, "EXAMPLE", "ROTATED", 1)
		}
		out := runScript(input+"\n", source)
		require.NotContains(t, out, "hunter2")
		if operation == "registerKey" {
			id = keyIDPattern.FindString(out)
			require.NotEmpty(t, id)
			t.Cleanup(func() { u.revokeKey(id) })
		}
		if operation == "createToken" {
			token = regexp.MustCompile(`[0-7][0-9A-HJKMNP-TV-Z]{25}`).FindString(out)
			require.NotEmpty(t, token)
		}
		delete(all, operation)
	}
	require.Equal(t, []string{"verifyKey"}, slices.Collect(maps.Keys(all)), "samples that this test does not run: the service allows no tests")
}
