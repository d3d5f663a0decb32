package lifecycle_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// recorder notes what a program does, in order.
type recorder struct {
	mu    sync.Mutex
	notes []string
}

func (r *recorder) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

// part takes some time to drain after stop, unless it is cut.
func (r *recorder) part(name string, drain time.Duration) lifecycle.Part {
	return func(stop, cut context.Context) error {
		<-stop.Done()
		select {
		case <-time.After(drain):
			r.note(name + " ended")
			return nil
		case <-cut.Done():
			r.note(name + " cut")
			return context.Cause(cut)
		}
	}
}

func (r *recorder) program(stages ...[]lifecycle.Part) *lifecycle.Program {
	p := &lifecycle.Program{
		Stages: stages, Ops: r.part("ops", 0), DrainTimeout: 20 * time.Second,
		OnDrain: func() { r.note("draining") }, Log: slog.New(slog.DiscardHandler),
	}
	p.Closers.Add(func() error { r.note("database closed"); return nil })
	p.Closers.Add(func() error { r.note("traces closed"); return nil })
	return p
}

func TestStagesStopInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		p := r.program(
			[]lifecycle.Part{r.part("slow", 8*time.Second), r.part("fast", 0)},
			[]lifecycle.Part{lifecycle.Task(func(ctx context.Context) error { <-ctx.Done(); r.note("feed ended"); return nil })},
		)
		var log bytes.Buffer
		p.Log = slog.New(slog.NewTextHandler(&log, nil))
		require.NoError(t, p.Run(ctx))
		require.Equal(t, []string{
			"draining", "fast ended", "slow ended", "feed ended", "ops ended", "traces closed", "database closed",
		}, r.notes)
		require.Contains(t, log.String(), `"stopping: requests in flight are answered first" timeout=20s`)
		require.Contains(t, log.String(), "msg=stopped")
	})
}

func TestDrainTimeoutIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		p := r.program([]lifecycle.Part{r.part("api", 15*time.Second)}, []lifecycle.Part{r.part("feed", time.Hour)},
			[]lifecycle.Part{r.part("last", time.Hour)})
		p.Ops = r.part("ops", time.Hour)
		err := p.Run(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "requests in flight were cut after 20s")
		require.Equal(t, []string{"draining", "api ended", "feed cut", "last cut", "ops cut", "traces closed", "database closed"}, r.notes)
		require.Equal(t, 22*time.Second, time.Since(began), "the parts after the time-out get one second each")
	})
}

func TestFailedPartStopsTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		broken := errors.New("broken")
		p := r.program(
			[]lifecycle.Part{lifecycle.Task(func(context.Context) error { return nil }), r.part("api", time.Second)},
			[]lifecycle.Part{lifecycle.Task(func(context.Context) error { time.Sleep(time.Minute); return broken })},
		)
		p.Closers.Add(func() error { return errors.New("not closed") })
		err := p.Run(t.Context())
		require.ErrorIs(t, err, broken)
		require.ErrorContains(t, err, "not closed")
		require.NotContains(t, err.Error(), "cut")
		require.Equal(t, []string{"draining", "api ended", "ops ended", "traces closed", "database closed"}, r.notes)
	})
}
