package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Only the superuser could make a file of another user, so the user is what varies here.
func TestFileOfAnotherUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyset.json")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	info, err := os.Stat(path)
	require.NoError(t, err)

	require.NoError(t, checkSecure(path, info, os.Geteuid()))
	err = checkSecure(path, info, os.Geteuid()+1)
	require.ErrorIs(t, err, ErrInsecureFile)
	require.ErrorContains(t, err, "belongs to another user")
	require.ErrorContains(t, err, path)
}
