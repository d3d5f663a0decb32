package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// The control plane has announced a rotation, and dies before the gateway has the new version.
func TestARotationOutlivesItsControlPlane(t *testing.T) {
	t.Parallel()
	const second = "sk-EXAMPLE-EXAMPLE-0002"
	e := newEnv(t)
	e.provider.Accept(second)
	p := e.start("--max-stale", "1h").awaitReady()
	require.Equal(t, http.StatusOK, p.models().status)
	hold := e.control.HoldRequests()
	tx := e.control.RotateKeyWithin(e.key, second, time.Hour)
	hold.Wait() // the gateway has read the event
	e.control.Down()
	for range 3 {
		require.Equal(t, http.StatusOK, p.models().status)
	}
	require.False(t, e.control.Acknowledged(tx))
	hold.Release()
	e.control.Up()
	p.await("acknowledged", func() bool { return e.control.Acknowledged(tx) })
	e.provider.Reject(providerSecret, http.StatusUnauthorized)
	require.Equal(t, http.StatusOK, p.models().status)
}

// Each time the link to the control plane breaks otherwise: before the rotation, right after it, and for fetches alone. The provider refuses
// a secret as soon as the receipt says that it may be deleted.
func TestRotationsUnderLoadWhileTheLinkIsCut(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		target, err := url.Parse(replica.address.Dataplane)
		require.NoError(t, err)
		var broken atomic.Pointer[string] // the beginning of the paths that are not served
		proxy := &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
		link := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if paths := broken.Load(); paths != nil && strings.HasPrefix(r.URL.Path, *paths) {
				panic(http.ErrAbortHandler) // cuts the connection
			}
			proxy.ServeHTTP(w, r)
		}))
		link.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(link.Close)
		cut := func(paths string) {
			broken.Store(&paths)
			link.CloseClientConnections()
		}

		key := c.register(replica)
		gateway := startProcess(t, os.Args[0], gatewayEnviron(t, link.URL, c.run("admin dataplane create --customer acme --name edge")),
			"--max-stale", "20s", "--upstream", "openai="+c.provider.URL+"/v1").awaitReady()
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		var answered [4]atomic.Int64
		failures := make(chan reply, len(answered))
		for i := range answered {
			load.Go(func() {
				for ctx.Err() == nil {
					if got := send(http.MethodGet, gateway.address.Gateway+"/openai/models", c.alice, ""); got.status != http.StatusOK {
						failures <- got
						return
					}
					answered[i].Add(1)
				}
			})
		}
		defer load.Wait()
		defer stop()
		settle := func() { // waits until each request that has begun is answered
			for i := range answered {
				from := answered[i].Load()
				gateway.await("answered", func() bool { return answered[i].Load() > from || len(failures) > 0 })
			}
		}
		settle()

		old := ""
		for round, paths := range []string{"/", "/", "/v1/fetch"} {
			secret := fmt.Sprintf("sk-EXAMPLE-rotated-%d-%d", round, time.Now().UnixNano())
			c.provider.Accept(secret)
			if round != 1 {
				cut(paths)
			}
			pending := c.call(replica, http.MethodPost, "/"+key+"/rotate", `{"activate":"now","secret":"`+secret+`"}`)
			cut(paths)
			settle()
			if round == 0 {
				require.Equal(t, "pending", pending.Receipt.State)
			}
			cut("nothing")
			// A stream whose hello was lost with its connection is counted until its lease and grace have ended.
			require.Eventually(t, func() bool {
				return c.call(replica, http.MethodPost, fmt.Sprintf("/%s/versions/%d/activate?wait=5s", key, round+2), "").Receipt.State == "complete"
			}, 3*patience, time.Millisecond)
			settle()
			if old != "" {
				c.provider.Reject(old, http.StatusUnauthorized)
			}
			old = secret
			settle()
		}
		require.Empty(t, failures)
	})
}

// The gateway reports that the provider refuses the new version, and the service has the version before serve again.
func TestARefusedRotationIsRolledBackByItself(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		key := c.register(replica)
		gateway := startProcess(t, os.Args[0], gatewayEnviron(t, replica.address.Dataplane, c.run("admin dataplane create --customer acme --name edge")),
			"--upstream", "openai="+c.provider.URL+"/v1").awaitReady()
		isServed := func() bool {
			return send(http.MethodGet, gateway.address.Gateway+"/openai/models", c.alice, "").status == http.StatusOK
		}
		require.True(t, isServed())
		c.call(replica, http.MethodPost, "/"+key+"/rotate", `{"activate":"now","secret":"sk-EXAMPLE-EXAMPLE-refused"}`)
		events := func() string {
			return send(http.MethodGet, replica.address.API+"/v1/customers/-/projects/-/events?type=key.rotation_rolled_back", c.alice, "").body
		}
		gateway.await("refused", func() bool { return !isServed() })
		gateway.await("rolled back", func() bool { return strings.Contains(events(), key) })
		require.Contains(t, events(), `"reason":"rejected"`)
		require.Equal(t, 1, *c.call(replica, http.MethodGet, "/"+key, "").Key.Version)
		gateway.await("served by the version before", isServed)
	})
}

// aikeysd is killed while it makes each step of a rotation or another change, and once more after it has answered.
func TestRotationsSurviveTheKillOfAikeysd(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		c := newControlPlane(t, e.URL(t))
		replica := c.start()
		key := c.register(replica)
		restart := func() {
			replica.end(syscall.SIGKILL)
			replica = c.start()
		}
		states := func() (all []string) {
			var listed pub.VersionsResponse
			got := send(http.MethodGet, replica.address.API+"/v1/aikeys/"+key+"/versions", c.alice, "")
			require.NoError(t, json.Unmarshal([]byte(got.body), &listed), got.body)
			for _, v := range listed.Versions {
				all = append(all, v.State)
			}
			return all
		}
		keyPath, leaked := "/v1/aikeys/"+key, c.call(replica, http.MethodPost, "", `{"provider":"openai","name":"leaked","secret":"sk-EXAMPLE-EXAMPLE-leaked"}`).Key.ID
		name := func() []string { return []string{c.call(replica, http.MethodGet, "/"+key, "").Key.Name} }
		leakedState := func() []string { return []string{c.call(replica, http.MethodGet, "/"+leaked, "").Key.State} }
		bob, bobs := c.addBob(replica)
		bobSees := func() []string {
			return []string{http.StatusText(send(http.MethodGet, replica.address.API+"/v1/aikeys/"+bobs, bob, "").status)}
		}
		for i, step := range []struct {
			method, path, body string
			show               func() []string
			want               []string
		}{
			{http.MethodPost, keyPath + "/rotate", `{"activate":"manual","secret":"sk-EXAMPLE-EXAMPLE-second"}`, states, []string{"pending", "active"}},
			{http.MethodPost, keyPath + "/versions/2/activate", "", states, []string{"active", "retiring"}},
			{http.MethodPost, keyPath + "/rotate", `{"activate":"now","secret":"sk-EXAMPLE-EXAMPLE-third"}`, states, []string{"active", "retiring", "destroyed"}},
			{http.MethodPost, keyPath + "/rollback", "", states, []string{"retiring", "active", "destroyed"}},
			{http.MethodDelete, keyPath + "/versions/3", "", states, []string{"destroyed", "active", "destroyed"}},
			{http.MethodPatch, keyPath, `{"name":"renamed"}`, name, []string{"renamed"}},
			{http.MethodPost, projectPath + "/leaks", `{"values":["sk-EXAMPLE-EXAMPLE-leaked"],"revoke":true}`, leakedState, []string{"revoked"}},
			{http.MethodDelete, projectPath + "/members/bob", "", bobSees, []string{http.StatusText(http.StatusForbidden)}},
			{http.MethodPost, projectPath + "/members/bob/restore", "", bobSees, []string{http.StatusText(http.StatusOK)}},
		} {
			before := step.show()
			ask := func(api string) reply {
				return send(step.method, api+step.path, c.alice, step.body,
					"Content-Type", "application/json", "Idempotency-Key", fmt.Sprintf("step-%d", i))
			}
			answered, api := make(chan reply, 1), replica.address.API
			go func() { answered <- ask(api) }()
			restart()
			if (<-answered).status == http.StatusOK {
				require.Equal(t, step.want, step.show(), "it was acknowledged")
			} else {
				require.Contains(t, [][]string{before, step.want}, step.show(), "it was made, or not")
			}
			again := ask(replica.address.API)
			if again.status != http.StatusNotFound || !strings.Contains(step.path, "/members/") { // where nobody is left to remove or restore
				require.Equal(t, http.StatusOK, again.status, again.body)
			}
			restart()
			require.Equal(t, step.want, step.show())
		}
		c.call(replica, http.MethodPost, "/"+key+"/rotate", `{"activate":"now","secret":"sk-EXAMPLE-EXAMPLE-fourth","overlap":"1s"}`)
		removed := send(http.MethodDelete, replica.address.API+projectPath+"/members/bob?grace_days=0", c.alice, "")
		require.Equal(t, http.StatusOK, removed.status, removed.body)
		restart()
		replica.await("destroyed when the overlap has ended", func() bool {
			return slices.Equal([]string{"active", "destroyed", "destroyed", "destroyed"}, states())
		})
		c.run("admin member set --customer acme --project chat --user bob --role member")
		bob = c.run("admin token create --customer acme --project chat --user bob")
		replica.await("destroyed after the grace", func() bool {
			return strings.Contains(send(http.MethodGet, replica.address.API+"/v1/aikeys/"+bobs, bob, "").body, `"state":"revoked"`)
		})
	})
}
