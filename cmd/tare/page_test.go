package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	pageBlock = regexp.MustCompile("(?s)```bash session\n(.*?\n)```\n(?:\n```text\n(.*?\n)```\n)?")
	differing = map[string]*regexp.Regexp{
		"ULID":   regexp.MustCompile(`[0-7][0-9A-HJKMNP-TV-Z]{25}`),
		"TIME":   regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`),
		"AGO":    regexp.MustCompile(`just now|\d+s ago`),
		"N ms":   regexp.MustCompile(`\d+ ms`),
		"SERVER": regexp.MustCompile(`http://127\.0\.0\.1:\d+`),
		" ":      regexp.MustCompile(` +`), // columns are as wide as their widest cell
	}
)

// alike replaces what differs from run to run.
func alike(text string) string {
	for to, each := range differing {
		text = each.ReplaceAllString(text, to)
	}
	return text
}

// TestThePagesSessionIsAsItStands runs the blocks of docs/tare.md one after the other, and compares what they print.
func TestThePagesSessionIsAsItStands(t *testing.T) {
	page, err := os.ReadFile("../../docs/tare.md")
	require.NoError(t, err)
	blocks := pageBlock.FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(blocks), 6)
	script := "set -euo pipefail\n"
	for _, b := range blocks {
		script += b[1] + "printf '\\0'\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = filepath.Dir(built.tare)
	cmd.Env = newPerson(t).with("PATH=" + cmd.Dir + ":" + os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	printed := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	require.Len(t, printed, len(blocks))
	for i, b := range blocks {
		require.Equal(t, alike(b[2]), alike(printed[i]), b[1])
	}
}
