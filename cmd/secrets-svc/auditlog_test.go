package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// writerFunc is an io.Writer.
type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(text []byte) (int, error) { return w(text) }

func TestAuditLineAfterOneCutOffByAFullDisk(t *testing.T) {
	errFull := errors.New("full")
	for _, size := range []int{0, 1, 3} {
		room := size
		var disk strings.Builder
		lines := &wholeLines{to: writerFunc(func(text []byte) (int, error) {
			n := min(len(text), room)
			room -= n
			disk.Write(text[:n])
			if n < len(text) {
				return n, errFull
			}
			return n, nil
		})}
		for range 2 {
			n, err := lines.Write([]byte("lost\n"))
			require.ErrorIs(t, err, errFull)
			require.LessOrEqual(t, n, size)
		}
		room = 1 << 10
		for _, line := range []string{"first\n", "second\n"} {
			n, err := lines.Write([]byte(line))
			require.NoError(t, err)
			require.Equal(t, len(line), n)
		}
		written := strings.Split(disk.String(), "\n")
		require.Equal(t, []string{"first", "second", ""}, written[len(written)-3:], "room for %d bytes", size)
	}
}

func TestAuditLineAfterACutOffOneAtStart(t *testing.T) {
	for content, want := range map[string]string{"": "one\ntwo\n", "whole\n": "whole\none\ntwo\n", "torn": "torn\none\ntwo\n"} {
		path := filepath.Join(t.TempDir(), "audit.log")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		audit, err := openAudit(path)
		require.NoError(t, err)
		for _, line := range []string{"one\n", "two\n"} {
			_, err := audit.Write([]byte(line))
			require.NoError(t, err)
		}
		require.NoError(t, audit.Close())
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}
