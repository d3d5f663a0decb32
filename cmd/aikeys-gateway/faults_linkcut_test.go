package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// awaitComplete waits until a receipt is complete, which it must be by a time, and returns when it was known to be.
func awaitComplete(t *testing.T, owner people, key string, by time.Time) time.Time {
	t.Helper()
	for {
		asked := time.Now()
		if owner.receipt(t, key).State == "complete" {
			return time.Now()
		}
		require.Less(t, asked.Sub(by), 5*time.Second, "it is not complete by its time")
		time.Sleep(10 * time.Millisecond)
	}
}

// rounding is that of times in answers, and the difference between two readings of a clock.
const rounding = 5 * time.Millisecond

// The link drops all data without an error. The receipt of a revocation is pending until the leases have expired and then
// complete; by then no request is served with the key.
func TestRevocationOverAHalfOpenLink(t *testing.T) {
	t.Parallel()
	for _, lose := range []bool{false, true} {
		t.Run(fmt.Sprintf("connections lost %v", lose), func(t *testing.T) {
			s := newScene(t, sqliteURL(t), 1)
			links, planes := s.planes(0, 2*time.Second)
			owner := s.owner(s.at(0))
			began := time.Now()
			var covered []time.Time
			for i, l := range links {
				l.darken(lose)
				covered = append(covered, planes[i].covered())
			}
			revoked := owner.revoke(t, s.newest, "0s")
			require.Equal(t, "pending", revoked.State)
			require.Equal(t, 2, revoked.DataPlanes)
			revoked.requireCompleteBy(t, lease+2*time.Second)
			awaited := make(chan revocation, 1)
			go func() {
				again, err := owner.tryRevoke(t.Context(), s.newest, "10s")
				if err != nil {
					t.Errorf("the second revoke: %v", err)
				}
				awaited <- again
			}()
			complete := awaitComplete(t, owner, s.newest, *revoked.CompleteBy)
			require.False(t, complete.Before(revoked.CompleteBy.Add(-rounding)), "nobody has acknowledged it")
			again := <-awaited
			require.Equal(t, "complete", again.State)
			require.False(t, again.answered.Before(revoked.CompleteBy.Add(-rounding)))
			t.Logf("complete_by was %+d ms, it was complete at %+d ms", revoked.CompleteBy.Sub(revoked.answered).Milliseconds(),
				again.answered.Sub(revoked.answered).Milliseconds())
			if again.answered.Before(complete) {
				complete = again.answered
			}
			time.Sleep(500 * time.Millisecond) // so that requests after it are checked too
			for _, l := range links {
				l.up()
			}
			ended := time.Now()
			for i, p := range planes {
				p.awaitKey(s.older)
				p.requireNone(s.newest, revoked.answered.Add(p.bound()+margin), revoked.answered)
				p.requireNone(s.newest, complete, revoked.answered)
				p.requireServed(began, time.Now(), window{covered[i], ended.Add(back)})
			}
			time.Sleep(time.Until(ended.Add(back)))
			require.Equal(t, http.StatusOK, planes[0].awaitKey(s.older).status)
		})
	}
}
