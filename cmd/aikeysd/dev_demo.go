package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

const (
	// demoPatience is how long the whole may take, on a machine that is busy.
	demoPatience = 30 * time.Second
	// demoBefore and demoAfter are for how long requests come before the revoke is sent, and after its receipt is complete.
	demoBefore = 500 * time.Millisecond
	demoAfter  = 300 * time.Millisecond
)

func (p *program) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "demo",
		Short:   "Watch a key being shared, used and revoked, in a few seconds",
		GroupID: groupStart,
		Args:    cli.NoArguments(),
		Long: `Shows in a few seconds what this is about, on this machine alone and without a network. It starts a control plane,
three gateways and a stand-in for a provider; registers a key; has the gateways serve streamed requests with it; and
revokes it while requests keep coming, up to one a millisecond at each gateway. Then it prints what happened when, in
milliseconds.

It takes no settings, uses free ports, and leaves nothing behind. Exits with 1 if a gateway served a request after the
receipt said that all of them had forgotten the key.`,
		Example: `  aikeysd demo`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.demo(cmd.Context())
		},
	}
}

func (p *program) demo(ctx context.Context) error {
	folder, err := os.MkdirTemp("", "aikeys-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }() // it is the system's folder for what may be left behind
	interrupted := ctx
	ctx, end := context.WithTimeout(ctx, demoPatience)
	defer end()
	st, err := p.newStage(ctx, folder)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	st.begin = st.service.beside(ctx, group, func(ctx context.Context) error {
		defer end()
		return st.perform(ctx)
	})
	group.Go(func() error { return st.service.run(ctx) })
	switch err = group.Wait(); {
	case interrupted.Err() != nil:
		return errors.New("the demonstration was interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the demonstration did not end within %s", demoPatience)
	}
	return err
}

// perform has all parts run, and plays the story.
func (st *stage) perform(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return st.provider.Serve(ctx) })
	for _, g := range st.gateways {
		group.Go(func() error { return g.run(ctx) })
	}
	err := st.play(ctx)
	stop()
	return errors.Join(err, group.Wait())
}

// play is the story: a key is registered, serves, and is revoked.
func (st *stage) play(ctx context.Context) error {
	defer st.closeConnections()
	if err := st.awaitLeases(ctx); err != nil {
		return err
	}
	if err := st.introduce(); err != nil {
		return err
	}
	keyID, err := st.register(ctx)
	if err != nil {
		return err
	}
	for _, g := range st.gateways {
		if err := st.converse(ctx, g); err != nil {
			return err
		}
	}
	requests, stopRequests := context.WithCancel(ctx)
	defer stopRequests()
	var load errgroup.Group
	for _, g := range st.gateways {
		load.Go(func() error { return g.load(requests, st.session.ownerKey) })
	}
	pause(ctx, demoBefore)
	r, err := st.revoke(ctx, keyID)
	if err == nil {
		pause(ctx, demoAfter)
	}
	stopRequests()
	if err := errors.Join(err, load.Wait(), ctx.Err()); err != nil {
		return err
	}
	if err := st.tell(r); err != nil {
		return err
	}
	return st.verdict(r)
}

// pause lasts for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
