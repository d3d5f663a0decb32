package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The primary is lost with a commit that its standby never had, comes back as a standby that can't follow the new primary, and stays at
// the address for a while. A data plane serves requests all the time, from a replica that knows the address alone.
func TestFailoverServesNoRevokedKey(t *testing.T) {
	t.Parallel()
	primary := modelstest.StartCluster(t)
	address := modelstest.NewAddress(t, primary)
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+address.URL("postgres"))
	mustAikeysd(t, environ, "migrate", "up")
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	replica := startReady(t, environ)
	key := replica.register(owner, "first")
	resolver, err := dataplane.New(dataplane.Config{ControlPlane: replica.dataplane, Token: func() string { return plane }})
	require.NoError(t, err)
	dataplanetest.Run(t, resolver)
	resolve := func() (id string, err error) {
		got, err := resolver.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "alice", "openai"))
		if err == nil {
			id = got.ID
		}
		return id, err
	}
	replica.eventually("the data plane serves", func() bool { id, _ := resolve(); return id == key })
	standby := modelstest.StartStandby(t, primary)
	require.NoError(t, standby.Stop(modelstest.Fast))
	replica.register(owner, "lost") // the standby never has it

	var (
		complete   atomic.Bool
		done       = make(chan struct{})
		load       sync.WaitGroup
		lateServes atomic.Int64
	)
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				after := complete.Load()
				if id, _ := resolve(); id == key && after {
					lateServes.Add(1)
				}
			}
		})
	}
	require.NoError(t, primary.Stop(modelstest.Immediate))
	require.NoError(t, standby.Start())
	standby.Promote(t)
	primary.Follow(t, standby)
	require.NoError(t, primary.Start())
	replica.eventually("the replica notices that the address leads to a standby", func() bool {
		got := replica.get(replica.ops+"/readyz", "")
		return got.status == http.StatusServiceUnavailable && strings.Contains(got.body, `"database":"read-only"`)
	})
	replica.eventually("the data plane stops serving", func() bool {
		_, err := resolve()
		return errors.Is(err, dataplane.ErrUnavailable)
	})

	// Another replica is at the new primary already.
	second := startReady(t, with(environ, "AIKEYS_DATABASE_URL="+standby.URL("postgres")))
	receipt := call(t, http.MethodDelete, second.api+"/v1/aikeys/"+key+"?wait=10s", owner, "")
	require.Contains(t, receipt.body, `"state":"complete"`)
	complete.Store(true)

	moved := time.Now()
	address.MoveTo(standby)
	next, attempts := "", 0
	replica.eventually("the replica takes writes again", func() bool {
		attempts++ // a register whose answer is lost may have stored its key
		got, err := tryCall(client, http.MethodPost, replica.api+"/v1/aikeys", owner, registerBody(fmt.Sprintf("next-%d", attempts)))
		next = anyKeyID.FindString(got.body)
		return err == nil && got.status == http.StatusCreated
	})
	replica.eventually("the data plane serves the next key", func() bool { id, _ := resolve(); return id == next })
	t.Logf("recovered %s after the address moved", time.Since(moved).Round(time.Millisecond))
	close(done)
	load.Wait()
	require.Zero(t, lateServes.Load(), "requests that were served with the revoked key after its receipt was complete")
}
