package auth

import (
	"context"
	"time"

	"golang.org/x/sync/singleflight"
)

// flight shares one run of a function between all who ask for the same key at a time. The run belongs to none of them:
// it keeps the first caller's context values but not its cancellation, and ends by its own timeout, so a caller that
// leaves neither fails the others nor waits for them.
type flight[T any] struct {
	timeout time.Duration
	group   singleflight.Group
}

// panicked carries a panic out of the shared goroutine, where it would end the process.
type panicked struct{ value any }

// do returns what fn returns, or ctx's error when ctx ends first. A panic of fn is raised again in every caller.
func (f *flight[T]) do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	result := f.group.DoChan(key, func() (value any, err error) {
		defer func() {
			if p := recover(); p != nil {
				value, err = panicked{p}, nil
			}
		}()
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
		defer cancel()
		return fn(shared)
	})
	select {
	case <-ctx.Done():
		return none, ctx.Err()
	case r := <-result:
		if p, ok := r.Val.(panicked); ok {
			panic(p.value)
		}
		value, _ := r.Val.(T)
		return value, r.Err
	}
}
