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
	"github.com/agentrouter/aikeys/impl/providers"
)

// devChild is a program that "aikeysd dev" runs as a child process. aikeysd links no code of the gateway: the server side and
// the client side meet only over HTTP.
type devChild struct {
	process child.Process
	address *regexp.Regexp // finds the program's URLs in its log
	// listening is closed when urls is set.
	listening chan struct{}
	urls      []string
}

// newDevChild returns a child whose log lines go to log, unless isHidden says otherwise.
func newDevChild(process child.Process, address string, log io.Writer, isHidden func(line string) bool) *devChild {
	c := &devChild{process: process, address: regexp.MustCompile(address), listening: make(chan struct{})}
	c.process.Log = func(line string) {
		if found := c.address.FindStringSubmatch(line); found != nil && c.urls == nil {
			c.urls = found[1:]
			close(c.listening)
		}
		if !isHidden(line) {
			_, _ = fmt.Fprintln(log, line) // a log that can't be written stops nothing
		}
	}
	return c
}

// awaitListening waits until the program listens, and returns its URLs. If ctx ends first, it returns an error.
func (c *devChild) awaitListening(ctx context.Context) ([]string, error) {
	select {
	case <-c.listening:
		return c.urls, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// childEnviron returns the environment without the settings of aikeysd.
func childEnviron(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, variablePrefix) })
}

// newDevGateway returns the child that runs aikeys-gateway. The gateway logs its addresses at the level info, so its
// level is always info or debug. If the developer's level is higher, isHidden drops the lines of the level info.
func newDevGateway(p *program, cfg *config, options devOptions) (*devChild, error) {
	path, err := child.Find("aikeys-gateway")
	if err != nil {
		return nil, err
	}
	level := cfg.LogLevel
	isQuiet := level == "warn" || level == "error"
	if isQuiet {
		level = "info"
	}
	args := []string{"serve", "--listen", options.gatewayListen, "--ops-listen", "127.0.0.1:0", "--log-level", level,
		"--upstream-allow", "127.0.0.0/8,::1", // an Ollama or a vLLM on the developer's own machine
		"--log-format", cfg.LogFormat, "--shutdown-timeout", cfg.ShutdownTimeout.String()}
	process := child.Process{Path: path, Args: args, Environ: childEnviron(p.Environ), Drain: cfg.ShutdownTimeout}
	return newDevChild(process, `gateway"?[=:]"?(http://[^\s",]+)"?[\s,]"?ops"?[=:]"?(http://[^\s",]+)`, p.Stderr, func(line string) bool {
		return isQuiet && (strings.Contains(line, "level=INFO") || strings.Contains(line, `"level":"INFO"`))
	}), nil
}

// runGateway runs the gateway until ctx ends, and returns when it has answered its requests in flight and exited.
func (c *devChild) runGateway(ctx context.Context, controlPlane, tokenFile string, upstreams []string) error {
	process := c.process
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

// newDevStandIn returns the child that runs the stand-in for providers. Without a network, the stand-in answers
// requests that have the made-up keys of examples. It returns nil if the options leave the stand-in out or its program
// is missing.
func newDevStandIn(p *program, options devOptions) *devChild {
	if !options.standIn {
		return nil
	}
	path, err := child.Find("aikeys-demo")
	if err != nil {
		p.Note("%s; without it, all requests go to the real providers", err)
		return nil
	}
	const address = `(http://127\.0\.0\.1:\d+)$`
	process := child.Process{Path: path, Args: []string{"provider"}, Environ: childEnviron(p.Environ)}
	return newDevChild(process, address, p.Stderr, regexp.MustCompile(address).MatchString)
}

// usesStandIn reports whether a stand-in, if one runs, gets the requests to a provider of the catalogue.
func (o devOptions) usesStandIn(provider string) bool {
	return !slices.ContainsFunc(o.upstreams, func(u string) bool { return strings.HasPrefix(u, provider+"=") })
}

// standInUpstreams returns the upstreams of the flags, and adds the stand-in at url for every other provider. As a
// result, no request with a made-up key leaves the machine.
func (o devOptions) standInUpstreams(url string) ([]string, error) {
	catalogue, err := providers.Load()
	if err != nil {
		return nil, err
	}
	upstreams := slices.Clone(o.upstreams)
	for _, p := range catalogue.All() {
		if !o.usesStandIn(p.Slug) {
			continue
		}
		_, rest, _ := strings.Cut(p.BaseURL, "://") // with the fields of a credential in it, url.Parse may refuse it
		if _, path, hasPath := strings.Cut(rest, "/"); hasPath {
			upstreams = append(upstreams, p.Slug+"="+url+"/"+path)
		} else {
			upstreams = append(upstreams, p.Slug+"="+url)
		}
	}
	return upstreams, nil
}
