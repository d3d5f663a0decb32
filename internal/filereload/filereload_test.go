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

func TestValue(t *testing.T) {
	var (
		value   *filereload.Value[string]
		file    string
		reads   int
		failure error // the error of a read
		log     bytes.Buffer
	)
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	next := func() string { // returns the value after the next check
		time.Sleep(time.Second)
		return value.Get(t.Context())
	}
	// test runs a test on a new value, "one".
	test := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				file, reads, failure = filepath.Join(t.TempDir(), "file"), 0, nil
				log.Reset()
				write("one")
				var err error
				value, err = filereload.Open(filereload.Source[string]{
					Name: "number", Files: []string{file}, Log: slog.New(slog.NewTextHandler(&log, nil)),
					Load: func() (string, error) {
						reads++
						if failure != nil {
							return "", failure
						}
						text, err := os.ReadFile(file)
						return string(text), err
					},
					Describe: func(text string) []slog.Attr { return []slog.Attr{slog.Int("length", len(text))} },
				})
				require.NoError(t, err)
				test(t)
			})
		})
	}
	test("a change is read", func(t *testing.T) {
		require.Equal(t, "one", next())
		require.Equal(t, 1, reads, "an unchanged file is not read again")
		write("three")
		require.Equal(t, "one", value.Current())
		require.Equal(t, "three", next())
		require.Contains(t, log.String(), `msg="a file has changed and was read again" what=number length=5`)
		require.NoError(t, os.WriteFile(file+".new", []byte("seven"), 0o600))
		require.NoError(t, os.Rename(file+".new", file))
		require.NoError(t, value.Refresh(t.Context()), "Refresh does not wait")
		require.Equal(t, "seven", value.Current())
	})
	test("a failed read is repeated", func(t *testing.T) {
		write("three")
		failure = os.ErrPermission
		require.Equal(t, "one", next())
		require.Equal(t, "one", next())
		require.Equal(t, 1, strings.Count(log.String(), "can't be used; the old one stays in force"), "each cause is logged once")
		failure = errors.New("too many open files")
		require.Equal(t, "one", next())
		require.Contains(t, log.String(), "too many open files")
		require.ErrorIs(t, value.Refresh(t.Context()), failure)

		failure = nil // and the file is unchanged
		require.Equal(t, "three", next())
		before := reads
		require.Equal(t, "three", next())
		require.Equal(t, before, reads, "a file that has not changed is not read")
	})
	test("a missing file is waited for", func(t *testing.T) {
		require.NoError(t, os.Rename(file, file+".away"))
		require.Equal(t, "one", next())
		require.ErrorIs(t, value.Refresh(t.Context()), os.ErrNotExist)
		write("back")
		require.Equal(t, "back", next())

		_, err := filereload.Open(filereload.Source[string]{Load: func() (string, error) { return "", os.ErrNotExist }})
		require.ErrorIs(t, err, os.ErrNotExist, "the first read must succeed")
	})
}
