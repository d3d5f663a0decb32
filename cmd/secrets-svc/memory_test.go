//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// A busy session leaves no decoded secrets behind; docs/secrets.md says what else may be found. Only root can look: the
// service's own user can't.
func TestMemoryIsWiped(t *testing.T) {
	const secrets, atTheMost = 400, 20
	i := install(t)
	i.create()
	s := i.launch()
	client := i.client()
	for n := range secrets {
		require.NoError(t, sealWrongly(client, canary(n)))
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.cmd.Process.Pid))
	if os.Geteuid() != 0 {
		require.ErrorIs(t, err, os.ErrPermission)
		return
	}
	require.NoError(t, err)
	defer func() { _ = memory.Close() }()
	found := map[string]bool{}
	for _, part := range s.mapped() {
		text := make([]byte, part.end-part.start)
		n, _ := memory.ReadAt(text, int64(part.start)) // the process may have unmapped a part since
		for _, form := range forms()[1:3] {            // as text and in hexadecimal digits: the base64 of requests is not wiped
			for at := 0; ; at += len(form) {
				next := bytes.Index(text[at:n], []byte(form))
				if next < 0 {
					break
				}
				at += next
				found[string(text[max(0, at-24):at])] = true // which of the secrets it is
			}
		}
	}
	require.LessOrEqual(t, len(found), atTheMost, "%q", found)
}

// part is a range of addresses.
type part struct{ start, end uint64 }

// mapped are the parts of the process's memory that it can write to.
func (s *server) mapped() (parts []part) {
	s.t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/maps", s.cmd.Process.Pid))
	require.NoError(s.t, err)
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var p part
		var rights string
		_, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &p.start, &p.end, &rights)
		require.NoError(s.t, err)
		if strings.HasPrefix(rights, "rw") {
			parts = append(parts, p)
		}
	}
	require.NotEmpty(s.t, parts)
	return parts
}

func TestLockedMemoryWhenRequired(t *testing.T) {
	i := install(t)
	i.create()
	if mayLock() != nil {
		got := i.run(nil, "serve", "--lock-memory", "require")
		require.Equal(t, cli.ExitFailure, got.code)
		require.Contains(t, got.stderr, "LimitMEMLOCK=infinity")
		return
	}
	s := i.launch("--lock-memory", "require")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	require.NoError(t, err)
	require.NotContains(t, string(status), "VmLck:\t       0 kB")
	requireOpens(t, i.client(), mustSeal(t, i.client()).Bytes)
}
