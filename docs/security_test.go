package docs_test

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSecurityPageNamesTestsThatExist(t *testing.T) {
	list := exec.CommandContext(t.Context(), "git", "grep", "-hoE", `^func Test\w+\(`, "--", "*_test.go", "sealer/sealertest/*.go")
	list.Dir = repository
	found, err := list.Output()
	require.NoError(t, err)
	tests := map[string]bool{}
	for line := range strings.Lines(string(found)) {
		tests[strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "func "), "(")] = true
	}
	text := readFile(t, "docs/security.md")
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(text, -1)
	require.Greater(t, len(named), 60)
	for _, m := range named {
		require.True(t, tests[m[1]], "docs/security.md names %s, which no package has", m[1])
	}

	_, section, _ := strings.Cut(text, "## Threats and answers")
	section, _, _ = strings.Cut(section, "\n## ")
	threats := 0
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| **") {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
			require.Len(t, cells, 3, line)
			require.Contains(t, cells[2], "`Test", "a threat whose answer no test holds")
			threats++
		}
	}
	require.Greater(t, threats, 20)
}
