package main

import (
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

// Patroni switches over, and then replaces a primary that has crashed. All the time, keys are registered and revoked, by somebody who
// tries until there is a receipt, and a data plane serves requests.
func TestPatroniFailoverServesNoRevokedKey(t *testing.T) {
	t.Parallel()
	cluster := modelstest.StartPatroni(t)
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+cluster.URL("postgres"))
	mustAikeysd(t, environ, "migrate", "up")
	owner, plane := newOwner(t, environ), newDataPlane(t, environ)
	replica := startReady(t, environ)
	resolver, err := dataplane.New(dataplane.Config{ControlPlane: replica.dataplane, Token: func() string { return plane }})
	require.NoError(t, err)
	dataplanetest.Run(t, resolver)
	resolve := func() string {
		got, err := resolver.Resolve(t.Context(), dataplane.ForUser("acme", "chat", "alice", "openai"))
		if err != nil {
			return ""
		}
		return got.ID
	}

	var (
		revoked    sync.Map // ids of keys whose receipts are complete
		receipts   atomic.Int64
		lateServes atomic.Int64
		load       sync.WaitGroup
		done       = make(chan struct{})
	)
	isDone := func() bool {
		select {
		case <-done:
			return true
		case <-time.After(time.Millisecond):
			return false
		}
	}
	for range 4 {
		load.Go(func() {
			for !isDone() {
				before := map[any]bool{}
				revoked.Range(func(id, _ any) bool { before[id] = true; return true })
				if before[resolve()] {
					lateServes.Add(1)
				}
			}
		})
	}
	load.Go(func() {
		for n := 0; !isDone(); n++ {
			// A register whose answer is lost may have stored its key: the next one has another name.
			got, err := tryCall(client, http.MethodPost, replica.api+"/v1/aikeys", owner, registerBody(fmt.Sprintf("key-%d", n)))
			key := anyKeyID.FindString(got.body)
			if err != nil || got.status != http.StatusCreated {
				continue
			}
			for !revokes(replica, owner, key) {
				if isDone() {
					return
				}
			}
			revoked.Store(key, true)
			receipts.Add(1)
		}
	})
	replica.eventually("keys come and go", func() bool { return receipts.Load() > 3 })
	for name, fault := range map[string]func(testing.TB){"switchover": cluster.Switchover, "crash": cluster.CrashPrimary} {
		fault(t)
		replaced, before := time.Now(), receipts.Load()
		replica.eventually("keys come and go again", func() bool { return receipts.Load() > before+1 })
		t.Logf("%s: two receipts %s after there was a primary", name, time.Since(replaced).Round(time.Millisecond))
	}
	close(done)
	load.Wait()
	require.Zero(t, lateServes.Load(), "requests that were served with a revoked key after its receipt was complete")
}

// revokes reports whether a revocation of a key has a complete receipt.
func revokes(replica *server, owner, key string) bool {
	got, err := tryCall(client, http.MethodDelete, replica.api+"/v1/aikeys/"+key+"?wait=5s", owner, "")
	return err == nil && got.status == http.StatusOK && strings.Contains(got.body, `"state":"complete"`)
}
