package secretfile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestFilesThatOthersCanAccessAreRefused(t *testing.T) {
	const process = 1000
	for name, tc := range map[string]struct {
		mode fs.FileMode
		uid  uint32
		says string // empty if the file is read
	}{
		"own":                                     {0o600, process, ""},
		"own, read only":                          {0o400, process, ""},
		"own, and its group reads":                {0o640, process, `has mode 0640, so group or others can access it; run: chmod 600 "token"`},
		"own, and others read":                    {0o604, process, "chmod 600"},
		"own, and others write":                   {0o602, process, "chmod 600"},
		"a Kubernetes Secret":                     {0o644, 0, "defaultMode 0400 and fsGroup"},
		"a Kubernetes Secret with fsGroup":        {0o440, 0, ""},
		"of root with ACLs, as systemd passes it": {0o440, 0, ""},
		"of root, and its group writes":           {0o660, 0, "chmod 640"},
		"of root, and others read":                {0o604, 0, "chmod 640"},
		"another user's":                          {0o600, 1001, `belongs to another user; run: chown 1000 "token"`},
		"another user's, and others read":         {0o644, 1001, "belongs to another user"},
		"a folder":                                {fs.ModeDir | 0o700, process, "not a regular file"},
		"a named pipe":                            {fs.ModeNamedPipe | 0o600, process, "not a regular file"},
	} {
		folder := fstest.MapFS{"token": {Mode: tc.mode, Sys: &syscall.Stat_t{Uid: tc.uid}}} // files of any owner, without root
		info, err := folder.Stat("token")
		require.NoError(t, err)
		err = check("token", info, process)
		if tc.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, ErrInsecure, name)
		require.ErrorContains(t, err, tc.says, name)
	}
	info, err := fstest.MapFS{"token": {Mode: 0o640, Sys: &syscall.Stat_t{}}}.Stat("token")
	require.NoError(t, err)
	require.Error(t, check("token", info, 0), "root needs no group to read its own files")
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
