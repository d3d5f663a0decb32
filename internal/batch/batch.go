// Package batch groups waiting work, so that many callers share one expensive step, such as a commit.
package batch

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
)

// ErrClosed is returned for work that was not carried out before the worker was closed.
var ErrClosed = errors.New("batch worker is closed")

// Run carries out a group of values. The sequence claims each value as it yields the value. From then on, the value's
// caller waits for the result. The sequence skips values whose callers have given up. If Run fails, every caller of the
// group gets its error, unless the Worker runs the values again one by one.
type Run[T any] func(group iter.Seq[T]) error

// Worker carries out groups in goroutines of its own, one group at a time in each. Values that arrive while all
// goroutines are busy make up the next groups.
type Worker[T any] struct {
	run   Run[T]
	limit int
	// alone reports whether one value may be the cause of a group's error. If so, each value is run again alone.
	alone func(error) bool
	queue chan *item[T]
	stop  chan struct{}
	done  chan struct{} // closed when all goroutines have ended
	once  sync.Once     // closes stop
}

// The states of an item. It leaves waiting once.
const (
	waiting int32 = iota
	claimed
	abandoned
)

type item[T any] struct {
	value    T
	state    atomic.Int32
	err      error         // set before finished is closed
	finished chan struct{} // closed when the group is over
}

// New starts a worker that carries out at most concurrency groups at once, of at most limit values each. If alone is
// nil, a group's error is final.
func New[T any](concurrency, limit int, run Run[T], alone func(error) bool) *Worker[T] {
	w := &Worker[T]{
		run: run, limit: limit, alone: alone,
		queue: make(chan *item[T], limit), stop: make(chan struct{}), done: make(chan struct{}),
	}
	var loops sync.WaitGroup
	for range concurrency {
		loops.Go(w.loop)
	}
	go func() {
		loops.Wait()
		close(w.done)
	}()
	return w
}

// Do hands value to the worker and returns when its group is over. If ctx ends first and the value has been claimed, Do
// still waits for the group. If the value has not been claimed, Do returns ctx's error, and the value is never carried
// out.
func (w *Worker[T]) Do(ctx context.Context, value T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	it := &item[T]{value: value, finished: make(chan struct{})}
	select {
	case w.queue <- it:
	case <-w.stop:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	err := ErrClosed
	select {
	case <-it.finished:
		return it.err
	case <-w.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if it.state.CompareAndSwap(waiting, abandoned) {
		return err
	}
	<-it.finished
	return it.err
}

// Waiting returns how many values wait for their group to begin.
func (w *Worker[T]) Waiting() int { return len(w.queue) }

// Close ends the worker when the groups that are being carried out have ended.
func (w *Worker[T]) Close() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

func (w *Worker[T]) loop() {
	for {
		select {
		case <-w.stop:
			return
		case first := <-w.queue:
			w.finish(w.gather(first))
		}
	}
}

// gather takes the items that are queued behind first, up to the limit. Before that, it yields the processor to callers
// that are about to join the queue: answers go out in groups, so the next requests arrive in groups.
func (w *Worker[T]) gather(first *item[T]) []*item[T] {
	runtime.Gosched()
	group := []*item[T]{first}
	for len(group) < w.limit {
		select {
		case next := <-w.queue:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}

func (w *Worker[T]) finish(group []*item[T]) {
	err := w.run(func(yield func(T) bool) {
		for _, it := range group {
			if it.state.CompareAndSwap(waiting, claimed) && !yield(it.value) {
				return
			}
		}
	})
	retry := err != nil && len(group) > 1 && w.alone != nil && w.alone(err)
	for _, it := range group {
		it.err = err
		if retry && it.state.Load() == claimed {
			it.err = w.run(func(yield func(T) bool) { yield(it.value) })
		}
		close(it.finished)
	}
}
