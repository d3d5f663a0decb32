package secretfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// file is a file of any owner, which only the superuser could make.
type file struct {
	mode fs.FileMode
	uid  uint32
}

func (file) Name() string        { return "token" }
func (file) Size() int64         { return 0 }
func (file) ModTime() time.Time  { return time.Time{} }
func (file) IsDir() bool         { return false }
func (f file) Mode() fs.FileMode { return f.mode }
func (f file) Sys() any          { return &syscall.Stat_t{Uid: f.uid} }

func TestFilesThatOthersCanAccessAreRefused(t *testing.T) {
	const process = 1000
	for name, tc := range map[string]struct {
		file
		says string // empty where the file is read
	}{
		"own":                                     {file{0o600, process}, ""},
		"own, read only":                          {file{0o400, process}, ""},
		"own, and its group reads":                {file{0o640, process}, `has mode 0640, so group or others can access it; run: chmod 600 "token"`},
		"own, and others read":                    {file{0o604, process}, "chmod 600"},
		"own, and others write":                   {file{0o602, process}, "chmod 600"},
		"a Kubernetes Secret":                     {file{0o644, 0}, "defaultMode 0400 and fsGroup"},
		"a Kubernetes Secret with fsGroup":        {file{0o440, 0}, ""},
		"of root with ACLs, as systemd passes it": {file{0o440, 0}, ""},
		"of root, and its group writes":           {file{0o660, 0}, "chmod 640"},
		"of root, and others read":                {file{0o604, 0}, "chmod 640"},
		"another user's":                          {file{0o600, 1001}, `belongs to another user; run: chown 1000 "token"`},
		"another user's, and others read":         {file{0o644, 1001}, "belongs to another user"},
		"a folder":                                {file{fs.ModeDir | 0o700, process}, "not a regular file"},
		"a named pipe":                            {file{fs.ModeNamedPipe | 0o600, process}, "not a regular file"},
	} {
		err := check("token", tc.file, process)
		if tc.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, ErrInsecure, name)
		require.ErrorContains(t, err, tc.says, name)
	}
	require.Error(t, check("token", file{0o640, 0}, 0), "root needs no group to read its own files")
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte("hunter2"), 0o600))
	link := path + ".link"
	require.NoError(t, os.Symlink(path, link))
	text, err := Read(link)
	require.NoError(t, err)
	require.Equal(t, "hunter2", string(text))

	for _, mode := range []fs.FileMode{0o604, 0o620, 0o640, 0o644, 0o666} {
		require.NoError(t, os.Chmod(path, mode))
		for _, each := range []string{path, link} {
			_, err = Read(each)
			require.ErrorIs(t, err, ErrInsecure)
			require.ErrorContains(t, err, fmt.Sprintf("chmod 600 %q", each))
			require.NotContains(t, err.Error(), "hunter2")
			require.ErrorIs(t, Check(each), ErrInsecure)
		}
	}
	pipe := path + ".pipe"
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err = Read(pipe)
	require.ErrorIs(t, err, ErrInsecure, "without waiting for a writer")
	_, err = Read(path + ".missing")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.WriteFile(path+".large", []byte(strings.Repeat("x", MaxLen+1)), 0o600))
	_, err = Read(path + ".large")
	require.ErrorIs(t, err, ErrTooLarge)
}
