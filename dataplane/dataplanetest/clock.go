package dataplanetest

import (
	"sync/atomic"
	"time"
)

// Clock is a dataplane.Clock that stands still until it is moved. Share one between a ControlPlane and a Resolver.
type Clock struct{ now atomic.Int64 }

// NewClock returns a clock that stands at one hour.
func NewClock() *Clock {
	c := &Clock{}
	c.now.Store(int64(time.Hour))
	return c
}

// Now returns the clock's time.
func (c *Clock) Now() time.Duration { return time.Duration(c.now.Load()) }

// Advance moves the clock forward.
func (c *Clock) Advance(d time.Duration) { c.now.Add(int64(d)) }
