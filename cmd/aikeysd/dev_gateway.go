package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/child"
	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// devGateway is the aikeys-gateway that runs as a child process of "aikeysd dev". aikeysd links no code of the gateway:
// the server side and the client side meet only over HTTP.
type devGateway struct {
	process child.Process
	log     io.Writer
	// quiet says that the log level is above info. The gateway logs its addresses at info, so it runs at that level, and
	// its lines of that level are not passed on.
	quiet bool
	// listening is closed when url and opsURL are set.
	listening   chan struct{}
	url, opsURL string
}

func newDevGateway(p *program, cfg *config, options devOptions) (*devGateway, error) {
	path, err := child.Find("aikeys-gateway")
	if err != nil {
		return nil, err
	}
	g := &devGateway{log: p.Stderr, listening: make(chan struct{})}
	level := cfg.LogLevel
	if g.quiet = level == "warn" || level == "error"; g.quiet {
		level = "info"
	}
	args := []string{"serve", "--listen", options.gatewayListen, "--ops-listen", "127.0.0.1:0", "--log-level", level,
		"--upstream-allow", "127.0.0.0/8,::1", // an Ollama or a vLLM on the developer's own machine
		"--log-format", cfg.LogFormat, "--shutdown-timeout", cfg.ShutdownTimeout.String()}
	g.process = child.Process{Path: path, Args: args, Environ: childEnviron(p.Environ), Drain: cfg.ShutdownTimeout, Log: g.readLog}
	return g, nil
}

// childEnviron returns the environment without the settings of aikeysd.
func childEnviron(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, variablePrefix) })
}

// run runs the gateway until ctx ends, and returns when it has answered its requests in flight and exited.
func (g *devGateway) run(ctx context.Context, controlPlane, tokenFile string, upstreams []string) error {
	process := g.process
	process.Args = append(process.Args, "--control-plane", controlPlane, "--token-file", tokenFile)
	for _, upstream := range upstreams {
		process.Args = append(process.Args, "--upstream", upstream)
	}
	err := process.Run(ctx)
	exit := (*exec.ExitError)(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == cli.ExitUsage:
		return cli.Usagef("--gateway-listen or --upstream: the gateway refuses them; its message is above")
	}
	return fmt.Errorf("the gateway has ended, and its message is above: %w; --gateway-listen gives it another address", err)
}

// gatewayAddresses finds the gateway's addresses in its log, JSON or text.
var gatewayAddresses = regexp.MustCompile(`gateway"?[=:]"?(http://[^\s",]+)"?[\s,]"?ops"?[=:]"?(http://[^\s",]+)`)

func (g *devGateway) readLog(line string) {
	if found := gatewayAddresses.FindStringSubmatch(line); found != nil && g.url == "" {
		g.url, g.opsURL = found[1], found[2]
		close(g.listening)
	}
	if !g.quiet || !strings.Contains(line, "level=INFO") && !strings.Contains(line, `"level":"INFO"`) {
		_, _ = fmt.Fprintln(g.log, line) // a log that can't be written stops nothing
	}
}

// awaitReady returns the gateway's URL when it is ready, and an error when ctx ends.
func (g *devGateway) awaitReady(ctx context.Context) (string, error) {
	select {
	case <-g.listening:
		return g.url, child.AwaitReady(ctx, g.opsURL)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
