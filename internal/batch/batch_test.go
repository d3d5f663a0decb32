package batch_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/batch"
)

var errRefused = errors.New("refused")

// recorder is a run function that keeps its groups. It blocks while gate is set.
type recorder struct {
	groups [][]int
	gate   chan struct{}
	fail   func(group []int) error
}

func (r *recorder) run(group iter.Seq[int]) error {
	if r.gate != nil {
		<-r.gate
	}
	values := slices.Sorted(group)
	r.groups = append(r.groups, values)
	if r.fail != nil {
		return r.fail(values)
	}
	return nil
}

// doAll hands in 0 to n-1 while a value -1 blocks the worker, and returns the errors of 0 to n-1.
func doAll(r *recorder, w *batch.Worker[int], n int) []error {
	r.gate = make(chan struct{})
	errs := make([]error, n)
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Do(context.Background(), -1) })
	synctest.Wait()
	for i := range n {
		wg.Go(func() { errs[i] = w.Do(context.Background(), i) })
	}
	synctest.Wait()
	close(r.gate)
	wg.Wait()
	return errs
}

func TestWorkerGroupsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		w := batch.New(1, 3, r.run, nil)
		defer w.Close()
		for _, err := range doAll(r, w, 5) {
			require.NoError(t, err)
		}
		sizes := []int{}
		for _, group := range r.groups {
			sizes = append(sizes, len(group))
		}
		require.Equal(t, []int{1, 3, 2}, sizes)
	})
}

func TestWorkerRunsARefusedGroupOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{fail: func(group []int) error {
			if slices.Contains(group, 1) {
				return errRefused
			}
			return nil
		}}
		w := batch.New(1, 8, r.run, func(err error) bool { return errors.Is(err, errRefused) })
		defer w.Close()
		require.Equal(t, []error{nil, errRefused, nil}, doAll(r, w, 3))
	})
}

func TestWorkerSharesOtherErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		r := &recorder{fail: func([]int) error { return down }}
		w := batch.New(1, 8, r.run, func(err error) bool { return errors.Is(err, errRefused) })
		defer w.Close()
		require.Equal(t, []error{down, down}, doAll(r, w, 2))
	})
}

func TestWorkerLeavesOutAbandonedValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{gate: make(chan struct{})}
		w := batch.New(1, 8, r.run, nil)
		defer w.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var first, given error
		var wg sync.WaitGroup
		wg.Go(func() { first = w.Do(t.Context(), 1) })
		synctest.Wait()
		wg.Go(func() { given = w.Do(ctx, 2) })
		synctest.Wait()
		require.Equal(t, 1, w.Waiting())
		cancel()
		synctest.Wait()
		close(r.gate)
		wg.Wait()
		require.NoError(t, first)
		require.ErrorIs(t, given, context.Canceled)
		require.NoError(t, w.Do(t.Context(), 3))
		require.NotContains(t, slices.Concat(r.groups...), 2)
	})
}

func TestWorkerWaitsForClaimedValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		w := batch.New(1, 8, func(group iter.Seq[int]) error {
			_ = slices.Collect(group)
			<-gate
			return nil
		}, nil)
		defer w.Close()
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- w.Do(ctx, 1) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case err := <-result:
			t.Fatalf("returned before the group was over: %v", err)
		default:
		}
		close(gate)
		require.NoError(t, <-result)
	})
}

func TestWorkerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{gate: make(chan struct{})}
		w := batch.New(1, 1, r.run, nil)
		var running, queued error
		var wg sync.WaitGroup
		wg.Go(func() { running = w.Do(t.Context(), 1) })
		synctest.Wait()
		wg.Go(func() { queued = w.Do(t.Context(), 2) })
		synctest.Wait()
		wg.Go(w.Close)
		wg.Go(w.Close)
		synctest.Wait()
		close(r.gate)
		wg.Wait()
		require.NoError(t, running)
		// The worker may take one more value, or see first that it must stop.
		if queued != nil {
			require.ErrorIs(t, queued, batch.ErrClosed)
		}
		require.ErrorIs(t, w.Do(t.Context(), 3), batch.ErrClosed)
	})
}
