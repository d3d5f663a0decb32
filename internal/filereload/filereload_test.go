package filereload_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/filereload"
)

// interval is longer than the minimum time between two checks.
const interval = time.Second

// number is a value in a file, and a reader that can be made to fail.
type number struct {
	*filereload.Value[string]
	file  string
	reads int
	err   error
	log   bytes.Buffer
}

func open(t *testing.T) *number {
	t.Helper()
	n := &number{file: filepath.Join(t.TempDir(), "file")}
	n.write(t, "one")
	var err error
	n.Value, err = filereload.Open(filereload.Source[string]{
		Name: "number", Files: []string{n.file}, Log: slog.New(slog.NewTextHandler(&n.log, nil)),
		Load: func() (string, error) {
			n.reads++
			if n.err != nil {
				return "", n.err
			}
			text, err := os.ReadFile(n.file)
			return string(text), err
		},
		Describe: func(text string) []slog.Attr { return []slog.Attr{slog.Int("length", len(text))} },
	})
	require.NoError(t, err)
	return n
}

func (n *number) write(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(n.file, []byte(text), 0o600))
}

// next returns the value after the next check.
func (n *number) next(t *testing.T) string {
	t.Helper()
	time.Sleep(interval)
	return n.Get(t.Context())
}

func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := open(t)
		require.Equal(t, "one", n.next(t))
		require.Equal(t, 1, n.reads, "an unchanged file is not read again")
		n.write(t, "three")
		require.Equal(t, "one", n.Current())
		require.Equal(t, "three", n.next(t))
		require.Contains(t, n.log.String(), `msg="a file has changed and was read again" what=number length=5`)
		require.NoError(t, os.WriteFile(n.file+".new", []byte("seven"), 0o600))
		require.NoError(t, os.Rename(n.file+".new", n.file))
		require.NoError(t, n.Refresh(t.Context()), "Refresh does not wait")
		require.Equal(t, "seven", n.Current())
	})
}

func TestFailedReadIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := open(t)
		n.write(t, "three")
		n.err = os.ErrPermission
		require.Equal(t, "one", n.next(t))
		require.Equal(t, "one", n.next(t))
		require.Equal(t, 1, strings.Count(n.log.String(), "can't be used; the old one stays in force"), "each cause is logged once")
		n.err = errors.New("too many open files")
		require.Equal(t, "one", n.next(t))
		require.Contains(t, n.log.String(), "too many open files")
		require.ErrorIs(t, n.Refresh(t.Context()), n.err)

		n.err = nil // and the file is as it was
		require.Equal(t, "three", n.next(t))
		reads := n.reads
		require.Equal(t, "three", n.next(t))
		require.Equal(t, reads, n.reads)
	})
}

func TestMissingFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := open(t)
		require.NoError(t, os.Rename(n.file, n.file+".away"))
		require.Equal(t, "one", n.next(t))
		require.ErrorIs(t, n.Refresh(t.Context()), os.ErrNotExist)
		n.write(t, "back")
		require.Equal(t, "back", n.next(t))

		_, err := filereload.Open(filereload.Source[string]{Load: func() (string, error) { return "", os.ErrNotExist }})
		require.ErrorIs(t, err, os.ErrNotExist, "the first read must succeed")
	})
}
