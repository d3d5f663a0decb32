// Package lifecycle runs a server program: it starts the program's parts, stops them in order, gives requests in flight
// time to end, and closes everything that the program has opened. It also has the HTTP server and the operators'
// handler of all our programs.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// minDrain is the minimum time that a part gets to end, even if the parts before it have used up the drain timeout.
const minDrain = time.Second

// Part is a part of a program. It works until stop is done, and then finishes its requests in flight. When cut is done,
// it abandons the rest. An error before stop is done stops the whole program; returning nil does not.
type Part func(stop, cut context.Context) error

// Task returns a part that ends soon after its context is done.
func Task(run func(ctx context.Context) error) Part {
	return func(stop, _ context.Context) error { return run(stop) }
}

// Program is a server program. Ops and Log are required.
type Program struct {
	// Stages has the program's parts. All start together. The parts of a stage stop together, after the parts of the
	// stage before have ended.
	Stages [][]Part
	// Ops answers probes until all stages have ended, so that probes see that the program is draining.
	Ops Part
	// DrainTimeout is how long all stages together may take to end. After that, requests in flight are cut.
	DrainTimeout time.Duration
	// OnDrain is called when the program begins to stop, before any part stops. It is optional.
	OnDrain func()
	// Closers are called last.
	Closers Closers
	Log     *slog.Logger
}

// Run runs the program until ctx is done or a part fails. It returns when all parts have ended and everything is closed.
func (p *Program) Run(ctx context.Context) error {
	parent := ctx
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	stages := make([]*stage, len(p.Stages))
	for i, parts := range p.Stages {
		stages[i] = start(ctx, fail, parts)
	}
	ops := start(ctx, fail, []Part{p.Ops})
	<-ctx.Done()

	p.Log.InfoContext(ctx, "stopping: requests in flight are answered first", slog.Duration("timeout", p.DrainTimeout))
	if p.OnDrain != nil {
		p.OnDrain()
	}
	var err error
	if cause := context.Cause(ctx); cause != context.Cause(parent) { //nolint:errorlint // identity: is it a part's error or the parent's?
		err = cause
	}
	deadline := time.Now().Add(p.DrainTimeout)
	var drainErr error
	for _, s := range stages {
		drainErr = errors.Join(drainErr, s.end(max(time.Until(deadline), minDrain)))
	}
	if drainErr != nil && time.Now().After(deadline) {
		drainErr = fmt.Errorf("requests in flight were cut after %s: %w", p.DrainTimeout, drainErr)
	}
	_ = ops.end(minDrain) // a probe that is cut loses nothing
	err = errors.Join(err, drainErr, p.Closers.Close())
	if err == nil {
		p.Log.InfoContext(ctx, "stopped")
	}
	return err
}

// stage is a group of running parts.
type stage struct {
	parts errgroup.Group
	stop  context.CancelFunc
	cut   context.CancelCauseFunc
}

// start starts parts, which outlive ctx. The first failure ends the program through fail.
func start(ctx context.Context, fail context.CancelCauseFunc, parts []Part) *stage {
	s := &stage{}
	base := context.WithoutCancel(ctx)
	var stop, cut context.Context
	stop, s.stop = context.WithCancel(base)
	cut, s.cut = context.WithCancelCause(base)
	for _, part := range parts {
		s.parts.Go(func() error {
			err := part(stop, cut)
			if err != nil && stop.Err() == nil {
				fail(err)
				return nil // Run reports it
			}
			return err
		})
	}
	return s
}

// end stops the stage, cuts it after the given time, and returns when its parts have ended.
func (s *stage) end(within time.Duration) error {
	s.stop()
	timer := time.AfterFunc(within, func() { s.cut(context.DeadlineExceeded) })
	defer timer.Stop()
	defer s.cut(nil)
	return s.parts.Wait()
}

// Closers are the functions that close what a program has opened.
type Closers []func() error

// Add adds a function.
func (c *Closers) Add(closer func() error) { *c = append(*c, closer) }

// AddListener adds a listener, in case no server closes it.
func (c *Closers) AddListener(listener net.Listener) {
	c.Add(func() error {
		_ = listener.Close() // already closed if its server has run
		return nil
	})
}

// Close calls all functions, the last one first.
func (c *Closers) Close() error {
	var err error
	for i := len(*c) - 1; i >= 0; i-- {
		err = errors.Join(err, (*c)[i]())
	}
	*c = nil
	return err
}
