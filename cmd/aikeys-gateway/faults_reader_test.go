package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// openDeaf opens a stream of changes from which nothing is ever read.
func openDeaf(t *testing.T, r *replica, edge string) {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var bad error
		err := raw.Control(func(fd uintptr) {
			bad = errors.Join( // small segments keep the sender's buffer small, too
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096),
				syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536))
		})
		return errors.Join(err, bad)
	}}
	address := strings.TrimPrefix(r.dataplane, "http://")
	conn, err := dialer.DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, edge)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(r.metrics(), "aikeys_feed_streams 2\n") }, patience, 10*time.Millisecond)
}

// flood makes changes that no key depends on, and returns when a data plane has been told of them.
func (s *scene) flood(store *models.Store, told *dataplane.Resolver, changes int) {
	s.t.Helper()
	var ids models.IDs
	require.NoError(s.t, store.Transact(s.t.Context(), func(tx *models.Tx) error {
		if err := tx.EnsureProject("acme", "noise"); err != nil {
			return err
		}
		for range changes {
			now := time.Now()
			err := tx.AppendEvent(models.Event{
				CustomerID: "acme", ProjectID: "noise", ID: ids.Next(models.EventIDPrefix, now), Type: models.EventPolicySet,
				Outcome: models.OutcomeAllowed, At: now.UnixMicro(), ActorUserID: "alice",
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	now, err := store.Position(s.t.Context())
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		at, err := position.Parse(told.Status().Position)
		return err == nil && at.Contains(now.Xmax-1)
	}, patience, 2*time.Millisecond, "the changes were not told")
}

// A subscriber that never reads does not delay the others. A receipt waits for it only until its lease expires. When the buffers
// in between are full, its connection is closed.
func TestSubscriberThatStopsReading(t *testing.T) {
	t.Parallel()
	s := newScene(t, modelstest.Postgres(t), 1)
	_, planes := s.planes(0)
	p, owner := planes[0], s.owner(s.at(0))
	openDeaf(t, s.at(0), s.edge())
	began := time.Now()
	second := s.add(false)
	p.awaitKey(second)
	revoked := owner.revoke(t, second, "0s")
	require.Equal(t, "pending", revoked.State)
	require.Equal(t, 2, revoked.DataPlanes)
	revoked.requireCompleteBy(t, lease)
	told := p.awaitKey(s.newest)
	require.Less(t, told.sent.Sub(revoked.answered), lease, "the other was told at once")
	awaitComplete(t, owner, second, *revoked.CompleteBy)
	require.Equal(t, 1, owner.receipt(t, second).Acknowledged)

	store := modelstest.OpenStore(t, s.database, models.Options{Timeout: time.Minute})
	from := time.Now()
	for range 40 { // in all 2 MB, more than such sockets hold
		s.flood(store, p.resolver, 200)
		if strings.Contains(s.at(0).metrics(), "aikeys_feed_streams 1\n") {
			break
		}
	}
	require.Eventually(t, func() bool { return strings.Contains(s.at(0).metrics(), "aikeys_feed_streams 1\n") }, patience, 10*time.Millisecond)
	t.Logf("it was cut off after %v", time.Since(from).Round(time.Millisecond))
	p.requireServed(began, time.Now())
	s.requireHealthy(planes)
}
