package main

import (
	"context"
	"io"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkFirstOutput measures the time from the start of a process to the first byte of its output: help, a list from a
// server on this machine, the same list by curl, and a program that does nothing. They take turns, so that
// other load on the machine affects all of them.
func BenchmarkFirstOutput(b *testing.B) {
	base, key := live.env["AGENTROUTER_BASE_URL"], live.env["AGENTROUTER_API_KEY"]
	env := []string{"AGENTROUTER_BASE_URL=" + base, "AGENTROUTER_API_KEY=" + key, "HOME=" + b.TempDir()}
	curl := exec.CommandContext(b.Context(), "curl", "-sS", base+"/v1/aikeys", "--oauth2-bearer", key).Args
	commands := map[string][]string{
		"help": {live.tare, "--help"}, "list": {live.tare, "api", "byok", "list"}, "curl": curl, "echo": {"/bin/echo"},
	}
	register := exec.CommandContext(b.Context(), live.tare, "api", "byok", "add", "--provider", "openai", "--name", "bench",
		"--secret", testSecret)
	register.Env = env
	require.NoError(b, register.Run(), "a list has something to show")
	timeFirstOutput := func(args []string) time.Duration {
		ctx, cancel := context.WithTimeout(b.Context(), testTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = env
		out, err := cmd.StdoutPipe()
		require.NoError(b, err)
		begun := time.Now()
		require.NoError(b, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, 1))
		took := time.Since(begun)
		require.NoError(b, err, args)
		_, err = io.Copy(io.Discard, out)
		require.NoError(b, err)
		require.NoError(b, cmd.Wait())
		return took
	}
	const rounds = 100 // how often each command runs
	times := map[string][]time.Duration{}
	for b.Loop() {
		for range rounds {
			for name, args := range commands {
				times[name] = append(times[name], timeFirstOutput(args))
			}
		}
	}
	milliseconds := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	for name, each := range times {
		slices.Sort(each)
		b.ReportMetric(milliseconds(each[len(each)/2]), name+"-ms")
		b.ReportMetric(milliseconds(each[len(each)*95/100]), name+"-p95-ms")
	}
	b.ReportMetric(milliseconds(times["list"][len(times["list"])/2])/milliseconds(times["curl"][len(times["curl"])/2]), "list/curl")
	b.ReportMetric(0, "ns/op")
}
