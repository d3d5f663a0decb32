package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A link is cut for two minutes, during which a key is revoked. Each gateway serves for as long as it has declared, the receipt
// waits for the longest declared time, and both gateways recover when the link does.
func TestLinkCutForTwoMinutes(t *testing.T) {
	t.Parallel()
	s := newScene(t, sqliteURL(t), 1)
	s.pace = 25 * time.Millisecond
	links, planes := s.planes(0, 30*time.Second)
	began := time.Now()
	var covered []time.Time
	for i, l := range links {
		l.cut(true)
		covered = append(covered, planes[i].covered())
	}
	time.Sleep(3 * time.Second) // the link has been gone for a while
	owner := s.owner(s.at(0))
	revoked := owner.revoke(t, s.newest, "0s")
	require.Equal(t, "pending", revoked.State)
	complete := awaitComplete(t, owner, s.newest, *revoked.CompleteBy)
	t.Logf("the receipt was complete after %v", complete.Sub(revoked.answered).Round(time.Millisecond))

	time.Sleep(time.Until(began.Add(2 * time.Minute))) // the cut
	for _, l := range links {
		l.up()
	}
	ended := time.Now()
	time.Sleep(time.Until(ended.Add(back + 200*time.Millisecond)))
	for i, p := range planes {
		p.awaitKey(s.older)
		p.requireNone(s.newest, revoked.answered.Add(p.bound()+margin), revoked.answered)
		p.requireNone(s.newest, complete, revoked.answered)
		p.requireRefused(covered[i].Add(margin), ended)
		p.requireServed(began, time.Now(), window{covered[i], ended.Add(back)})
	}
}
