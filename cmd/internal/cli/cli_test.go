package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// outcome is what one run of a program left.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs a made-up program, larder, whose command "jam stir" ends with err.
func run(t *testing.T, err error, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p := &cli.Program{Name: "larder", Stdout: &stdout, Stderr: &stderr}
	stir := &cobra.Command{Use: "stir", Args: cli.NoArguments("--speed")}
	stir.RunE = func(*cobra.Command, []string) error { return err }
	stir.Flags().Int("speed", 1, strings.Repeat("how fast it goes round and round ", 9))
	taste := &cobra.Command{Use: "taste", Args: cli.NoArguments(), RunE: func(*cobra.Command, []string) error {
		table := p.NewTable("KIND", "TASTE")
		table.Row("plum", "good")
		return errors.Join(table.Flush(), p.Say("%d tasted", 1))
	}}
	root := &cobra.Command{Use: "larder", Short: "Keep jam"}
	root.AddCommand(cli.Group(&cobra.Command{Use: "jam", Short: "Mind the jam"}, stir, taste))
	code := p.Run(t.Context(), root, args)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestHelpOnWhatThereIsNotIsRefusedAndNotRepeated(t *testing.T) {
	for args, says := range map[string]string{
		"help jelly":          "larder has no such command to help with; it has jam\n",
		"help jam hunter2":    "larder jam has no such command to help with; it has stir, taste\n",
		"help jam stir again": "larder jam stir has no commands of its own; see larder jam stir --help\n",
	} {
		got := run(t, nil, strings.Fields(args)...)
		require.Equal(t, cli.ExitUsage, got.code, args)
		require.Empty(t, got.stdout)
		require.Equal(t, "larder: "+says, got.stderr)
	}
	for _, args := range []string{"help", "help jam", "help jam stir"} {
		got := run(t, nil, strings.Fields(args)...)
		require.Equal(t, cli.ExitOK, got.code, args)
		require.Contains(t, got.stdout, "Usage:")
	}
}

func TestExitCodesAndWhatIsTold(t *testing.T) {
	wrong := fmt.Errorf("stove: %w", &cli.UsageError{Complaints: []string{"first", "second"}})
	cases := map[string]struct {
		err  error
		args string
		want outcome
	}{
		"all is well": {nil, "jam stir", outcome{code: cli.ExitOK}},
		"results are on stdout": {nil, "jam taste",
			outcome{code: cli.ExitOK, stdout: "KIND  TASTE\nplum  good\n1 tasted\n"}},
		"a failure is one line": {errors.New("it\nburnt"), "jam stir",
			outcome{cli.ExitFailure, "", "larder: it burnt\n"}},
		"each complaint has a line": {wrong, "jam stir",
			outcome{cli.ExitUsage, "", "larder: stove: first\nlarder: second\n"}},
		"no such command": {nil, "jem",
			outcome{cli.ExitUsage, "", "larder: unknown command \"jem\" for \"larder\" Did you mean this? jam; see larder --help\n"}},
		"no such flag": {nil, "jam stir --sped 1",
			outcome{cli.ExitUsage, "", "larder: unknown flag: --sped; see larder jam stir --help\n"}},
		"an argument is not repeated": {nil, "jam taste ak_x",
			outcome{cli.ExitUsage, "", "larder: larder jam taste takes no arguments; see larder jam taste --help\n"}},
		"a flag takes an argument's place": {nil, "jam stir ak_x",
			outcome{cli.ExitUsage, "", "larder: larder jam stir takes no arguments; use --speed; see larder jam stir --help\n"}},
		"no such command of a group": {nil, "jam boil",
			outcome{cli.ExitUsage, "", "larder: larder jam has no command \"boil\"; it has stir, taste\n"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, run(t, tc.err, strings.Fields(tc.args)...))
		})
	}
}

func TestHelpFitsItsWidth(t *testing.T) {
	help := run(t, nil, "jam", "stir", "--help").stdout
	require.Contains(t, help, "--speed")
	for line := range strings.Lines(help) {
		require.LessOrEqual(t, len(strings.TrimSpace(line)), cli.HelpWidth)
	}
	require.Contains(t, run(t, nil, "jam").stdout, "Mind the jam", "a group alone shows its help")
}

func TestVersionNamesTheToolchain(t *testing.T) {
	require.Regexp(t, `^larder version \S+.* go1\.`, run(t, nil, "--version").stdout)
}

func TestOtherVariablesAreLookedUp(t *testing.T) {
	p := &cli.Program{Environ: []string{"AB=1", "A=2"}}
	require.Equal(t, "2", p.Getenv("A"))
	require.Empty(t, p.Getenv("C"))
}

func TestTheFirstSignalEndsTheContext(t *testing.T) {
	ctx := cli.UntilSignal()
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
		"JSON, with durations in milliseconds": {cli.LogJSON, "info", `"level":"INFO","msg":"boiled","after_ms":1500}`},
		"JSON where there is no terminal":      {cli.LogAuto, "info", `"after_ms":1500}`},
		"text":                                 {cli.LogText, "info", "level=INFO msg=boiled after=1.5s"},
		"not what is below the level":          {cli.LogText, "warn", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := cli.NewLogger(&out, tc.format, tc.level)
			log.InfoContext(t.Context(), "boiled", slog.Duration("after", 1500*time.Millisecond))
			require.Contains(t, out.String(), tc.want)
			require.Equal(t, tc.want == "", out.Len() == 0)
		})
	}
}
