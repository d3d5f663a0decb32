package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// UntilSignal returns a context that is done at the first SIGINT or SIGTERM. The second one ends the process: its default
// effect is restored before the context is done, so no signal is lost in between.
func UntilSignal() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // for as long as the process lives
		<-signals
		signal.Stop(signals)
		cancel()
	}()
	return ctx
}
