package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestProgram(t *testing.T) {
	type outcome struct {
		code           int
		stdout, stderr string
	}
	// run runs a made-up program, larder, whose command "jam stir" ends with err.
	run := func(t *testing.T, err error, args ...string) outcome {
		var stdout, stderr bytes.Buffer
		p := &Program{Name: "larder", Stdout: &stdout, Stderr: &stderr}
		stir := &cobra.Command{Use: "stir", Args: NoArguments("--speed")}
		stir.RunE = func(*cobra.Command, []string) error { return err }
		stir.Flags().Int("speed", 1, strings.Repeat("how fast it goes round and round ", 9))
		taste := &cobra.Command{Use: "taste", Args: NoArguments(), RunE: func(*cobra.Command, []string) error {
			table := p.NewTable("KIND", "TASTE")
			table.Row("plum", "good")
			return errors.Join(table.Flush(), p.Say("%d tasted", 1))
		}}
		root := &cobra.Command{Use: "larder", Short: "Keep jam"}
		root.AddCommand(Group(&cobra.Command{Use: "jam", Short: "Mind the jam"}, stir, taste))
		code := p.Run(t.Context(), root, args)
		return outcome{code, stdout.String(), stderr.String()}
	}
	t.Run("help on an unknown command is refused, and the word is not repeated", func(t *testing.T) {
		for args, says := range map[string]string{
			"help jelly":          "larder has no such command to help with; it has jam\n",
			"help jam hunter2":    "larder jam has no such command to help with; it has stir, taste\n",
			"help jam stir again": "larder jam stir has no commands of its own; see larder jam stir --help\n",
		} {
			got := run(t, nil, strings.Fields(args)...)
			require.Equal(t, ExitUsage, got.code, args)
			require.Empty(t, got.stdout)
			require.Equal(t, "larder: "+says, got.stderr)
		}
		for _, args := range []string{"help", "help jam", "help jam stir"} {
			got := run(t, nil, strings.Fields(args)...)
			require.Equal(t, ExitOK, got.code, args)
			require.Contains(t, got.stdout, "Usage:")
		}
	})
	t.Run("exit codes and output", func(t *testing.T) {
		wrong := fmt.Errorf("stove: %w", &UsageError{Complaints: []string{"first", "second"}})
		cases := map[string]struct {
			err  error
			args string
			want outcome
		}{
			"all is well": {nil, "jam stir", outcome{code: ExitOK}},
			"results are on stdout": {nil, "jam taste",
				outcome{code: ExitOK, stdout: "KIND  TASTE\nplum  good\n1 tasted\n"}},
			"a failure is one line": {errors.New("it\nburnt"), "jam stir",
				outcome{ExitFailure, "", "larder: it burnt\n"}},
			"each complaint has a line": {wrong, "jam stir",
				outcome{ExitUsage, "", "larder: stove: first\nlarder: second\n"}},
			"no such command": {nil, "jem",
				outcome{ExitUsage, "", "larder: unknown command \"jem\" for \"larder\" Did you mean this? jam; see larder --help\n"}},
			"no such flag": {nil, "jam stir --sped 1",
				outcome{ExitUsage, "", "larder: unknown flag: --sped; see larder jam stir --help\n"}},
			"an argument is not repeated": {nil, "jam taste ak_x",
				outcome{ExitUsage, "", "larder: larder jam taste takes no arguments; see larder jam taste --help\n"}},
			"a flag takes an argument's place": {nil, "jam stir ak_x",
				outcome{ExitUsage, "", "larder: larder jam stir takes no arguments; use --speed; see larder jam stir --help\n"}},
			"no such command of a group": {nil, "jam boil",
				outcome{ExitUsage, "", "larder: larder jam has no command \"boil\"; it has stir, taste\n"}},
		}
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				require.Equal(t, tc.want, run(t, tc.err, strings.Fields(tc.args)...))
			})
		}
	})
	t.Run("help fits its width", func(t *testing.T) {
		help := run(t, nil, "jam", "stir", "--help").stdout
		require.Contains(t, help, "--speed")
		for line := range strings.Lines(help) {
			require.LessOrEqual(t, len(strings.TrimSpace(line)), HelpWidth)
		}
		require.Contains(t, run(t, nil, "jam").stdout, "Mind the jam", "a group alone shows its help")
	})
	t.Run("the version names the toolchain", func(t *testing.T) {
		require.Regexp(t, `^larder version \S+.* go1\.`, run(t, nil, "--version").stdout)
	})
}

func TestOtherVariablesAreLookedUp(t *testing.T) {
	p := &Program{Environ: []string{"AB=1", "A=2"}}
	require.Equal(t, "2", p.Getenv("A"))
	require.Empty(t, p.Getenv("C"))
}

func TestTheFirstSignalEndsTheContext(t *testing.T) {
	ctx := UntilSignal()
	require.NoError(t, ctx.Err())
	require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM))
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
		require.Fail(t, "the signal was not heard")
	}
}

func TestTheLogIsAsSettingsAsk(t *testing.T) {
	for name, tc := range map[string]struct{ format, level, want string }{
		"JSON, with durations in milliseconds": {LogJSON, "info", `"level":"INFO","msg":"boiled","after_ms":1500}`},
		"JSON where there is no terminal":      {LogAuto, "info", `"after_ms":1500}`},
		"text":                                 {LogText, "info", "level=INFO msg=boiled after=1.5s"},
		"not what is below the level":          {LogText, "warn", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := NewLogger(&out, tc.format, tc.level)
			log.InfoContext(t.Context(), "boiled", slog.Duration("after", 1500*time.Millisecond))
			require.Contains(t, out.String(), tc.want)
			require.Equal(t, tc.want == "", out.Len() == 0)
		})
	}
}

func cgroup(path, limit string) fstest.MapFS {
	return fstest.MapFS{
		"proc/self/cgroup":                     {Data: []byte("0::/" + path + "\n")},
		"sys/fs/cgroup/" + path + "memory.max": {Data: []byte(limit + "\n")},
	}
}

func TestAContainersLimitIsFound(t *testing.T) {
	cases := map[string]struct {
		root  fstest.MapFS
		limit int64
	}{
		"in a container":      {cgroup("", "134217728"), 128 << 20},
		"in a systemd unit":   {cgroup("system.slice/aikeysd.service/", "268435456"), 256 << 20},
		"none set":            {cgroup("", "max"), 0},
		"on another system":   {fstest.MapFS{}, 0},
		"control groups v1":   {fstest.MapFS{"proc/self/cgroup": {Data: []byte("12:memory:/a\n0::/a\n")}}, 0},
		"what is no number":   {cgroup("", "lots"), 0},
		"without that reader": {fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			limit, ok := containerLimit(tc.root)
			require.Equal(t, tc.limit > 0, ok)
			if ok {
				require.Equal(t, tc.limit, limit)
			}
		})
	}
}

func TestTheOperatorsOwnMemorySettingsStand(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	const gcPercent = 400
	container := cgroup("", "1000000000")
	env := map[string]string{"GOGC": "50", "GOMEMLIMIT": "1GiB"}

	TuneMemory(gcPercent, container, func(name string) string { return env[name] })
	require.Equal(t, 50, debug.SetGCPercent(50))
	require.EqualValues(t, math.MaxInt64, debug.SetMemoryLimit(-1))

	TuneMemory(gcPercent, container, func(string) string { return "" })
	require.Equal(t, gcPercent, debug.SetGCPercent(50))
	require.EqualValues(t, 900_000_000, debug.SetMemoryLimit(-1))
}

// net/http logs unexpected data that a provider sends after its answer to the standard log. The data may contain the
// request with its key.
func TestStandardLogIsOff(t *testing.T) {
	var written bytes.Buffer
	log.SetOutput(&written)
	p := &Program{Name: "larder", Stdout: io.Discard, Stderr: io.Discard}
	require.Equal(t, ExitOK, p.Run(t.Context(), &cobra.Command{Use: "larder", Run: func(*cobra.Command, []string) { log.Print("sk-EXAMPLE") }}, []string{}))
	require.Empty(t, written.String())
}
