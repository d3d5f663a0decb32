// Package filereloadtest replaces files the way that once made readers give up: the first read of the change fails, and the
// file that can be read afterwards has the same size and time as the one that could not.
package filereloadtest

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ReplaceAfterFailure writes spoiled content of the same length as content, waits until hasFailed reports that it was read
// in vain, and then writes content in such a way that the file's status does not show it.
func ReplaceAfterFailure(t testing.TB, file string, content []byte, hasFailed func() bool) {
	t.Helper()
	modified := time.Now()
	write := func(content []byte) {
		require.NoError(t, os.WriteFile(file, content, 0o600))
		require.NoError(t, os.Chtimes(file, modified, modified))
	}
	write(bytes.Repeat([]byte{' '}, len(content)))
	require.Eventually(t, hasFailed, 10*time.Second, 10*time.Millisecond)
	write(content)
}
