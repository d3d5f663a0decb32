package dataplanetest

import (
	"sync/atomic"
	"time"
)

// Clock is a dataplane.Clock that stands still until it is moved. Share one between a ControlPlane and a Resolver.
type Clock struct{ now atomic.Int64 }

// NewClock returns a clock that shows some time.
func NewClock() *Clock {
	c := &Clock{}
	c.now.Store(int64(time.Hour))
	return c
}

// Now returns the time that the clock shows.
func (c *Clock) Now() time.Duration { return time.Duration(c.now.Load()) }

// Advance moves the clock on.
func (c *Clock) Advance(d time.Duration) { c.now.Add(int64(d)) }
