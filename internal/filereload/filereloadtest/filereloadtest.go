// Package filereloadtest replaces a file in the worst way: the first read of the change fails, and the valid file that follows has the
// same size and time as the invalid one.
package filereloadtest

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ReplaceAfterFailure writes blanks of the same length as content, waits until hasFailed reports that a read has failed, and then writes
// content without a change in the file's size and time.
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
