package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/child"
	"github.com/agentrouter/aikeys/impl/providers"
)

// devStandIn is the stand-in for providers that runs as a child process of "aikeysd dev", so that the made-up keys of the
// examples get an answer without a network.
type devStandIn struct {
	options   devOptions
	isRunning bool // whether there is to be one
	process   child.Process
	// listening is closed when url is set.
	listening chan struct{}
	url       string
}

// standInPaths returns the paths of all providers' base URLs, by slug: no request of a made-up key leaves the machine.
func standInPaths() (map[string]string, error) {
	catalogue, err := providers.Load()
	if err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, p := range catalogue.All() {
		_, rest, _ := strings.Cut(p.BaseURL, "://") // it is no URL before the fields of a credential are filled in
		_, path, hasPath := strings.Cut(rest, "/")
		if hasPath {
			path = "/" + path
		}
		paths[p.Slug] = path
	}
	return paths, nil
}

func newDevStandIn(p *program, options devOptions) *devStandIn {
	s := &devStandIn{options: options, listening: make(chan struct{})}
	path, err := child.Find("aikeys-demo")
	if options.standIn && err != nil {
		p.Note("%s; without it, all requests go to the real providers", err)
	}
	if s.isRunning = options.standIn && err == nil; !s.isRunning {
		close(s.listening)
	}
	s.process = child.Process{
		Path: path, Args: []string{"provider"}, Environ: childEnviron(p.Environ),
		Log: func(line string) { s.readLog(p.Stderr, line) },
	}
	return s
}

// run runs the stand-in, if there is to be one, until ctx ends.
func (s *devStandIn) run(ctx context.Context) error {
	if !s.isRunning {
		return nil
	}
	if err := s.process.Run(ctx); err != nil {
		return fmt.Errorf("the stand-in for providers has ended: %w", err)
	}
	return nil
}

// standInAddress finds the stand-in's URL in its log.
var standInAddress = regexp.MustCompile(`http://127\.0\.0\.1:\d+$`)

func (s *devStandIn) readLog(to io.Writer, line string) {
	if found := standInAddress.FindString(line); found != "" && s.url == "" {
		s.url = found
		close(s.listening)
		return
	}
	_, _ = fmt.Fprintln(to, line) // a log that can't be written stops nothing
}

// serves reports whether the stand-in answers for a provider of the catalogue.
func (s *devStandIn) serves(provider string) bool {
	return s.isRunning &&
		!slices.ContainsFunc(s.options.upstreams, func(u string) bool { return strings.HasPrefix(u, provider+"=") })
}

// upstreams returns where the gateway sends requests, once the stand-in listens: as the flags say, and to the stand-in. It
// returns an error when ctx ends.
func (s *devStandIn) upstreams(ctx context.Context) ([]string, error) {
	select {
	case <-s.listening:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	paths, err := standInPaths()
	if err != nil {
		return nil, err
	}
	upstreams := slices.Clone(s.options.upstreams)
	for provider, path := range paths {
		if s.serves(provider) {
			upstreams = append(upstreams, provider+"="+s.url+path)
		}
	}
	return upstreams, nil
}
