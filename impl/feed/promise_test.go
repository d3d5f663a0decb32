package feed_test

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// cache is what a data plane that keeps the rules of the document may use.
type cache struct {
	mu       sync.Mutex
	keys     map[string]bool
	maxStale time.Duration
	leaseEnd time.Time

	// Of the stream.
	sent    time.Time
	resumes bool
	clock   int64
	lease   time.Duration
	beats   bool
}

func (c *cache) apply(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Type {
	case "hello":
		c.clock, c.lease, c.beats = *m.ClockMs, time.Duration(*m.LeaseMs)*time.Millisecond, false
		if !c.resumes {
			clear(c.keys)
		}
	case "reset":
		clear(c.keys)
	case "heartbeat":
		end := c.sent.Add(time.Duration(*m.ClockMs-c.clock)*time.Millisecond + c.lease)
		if !c.beats || end.After(c.leaseEnd) {
			c.leaseEnd, c.beats = end, true
		}
	case "key.revoked":
		delete(c.keys, *m.KeyID)
	}
}

// mayUse tells whether a key may be used now without asking, if nobody answers.
func (c *cache) mayUse(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[key] && time.Now().Before(c.leaseEnd.Add(c.maxStale))
}

func (c *cache) fetch(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[key] = true
}

// fleet are replicas that come and go.
type fleet struct {
	mu    sync.Mutex
	alive []*replica
}

func (f *fleet) any() *replica {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alive[rand.IntN(len(f.alive))]
}

// replace kills a replica and starts another in its place.
func (f *fleet) replace(w *world, o options) {
	i := rand.IntN(len(f.alive))
	f.alive[i].kill()
	fresh := w.replica(o)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alive[i] = fresh
}

// wander has a data plane connect, acknowledge and leave at random, until stop is closed.
func (f *fleet) wander(t *testing.T, dataPlane string, c *cache, stop <-chan struct{}) {
	q := request{dataPlane: dataPlane, maxStale: c.maxStale, apply: c.apply}
	for {
		select {
		case <-stop:
			return
		case <-time.After(rand.N(60 * time.Millisecond)):
		}
		if rand.IntN(8) == 0 { // a new process
			c.mu.Lock()
			clear(c.keys)
			c.leaseEnd = time.Time{}
			c.mu.Unlock()
			q.previous, q.resume = "", ""
		}
		c.mu.Lock()
		c.sent, c.resumes = time.Now(), q.resume != ""
		c.mu.Unlock()
		stream, status := open(t, f.any().base, q)
		if status != http.StatusOK {
			continue
		}
		for range rand.IntN(50) {
			time.Sleep(rand.N(30 * time.Millisecond))
			all := stream.all()
			if len(all) == 0 || rand.IntN(8) == 0 {
				continue
			}
			if at, err := models.ParsePosition(stream.last()); err == nil {
				_ = f.any().Acknowledge(t.Context(), dataPlane, *all[0].SessionID, at) // the stream may be gone
			}
		}
		stream.cut()
		q.resume = stream.last()
		if all := stream.all(); len(all) > 0 {
			q.previous = *all[0].SessionID
		}
	}
}

// Whatever data planes and replicas do, no replica ever says that a revocation is complete while a data plane may use the key;
// and each of them is complete in time.
func TestNoReceiptIsCompleteWhileADataPlaneMayUseTheKey(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		hasty := options{lease: 300 * time.Millisecond, house: 30 * time.Millisecond, grace: 300 * time.Millisecond}
		f := &fleet{alive: w.replicas(3, hasty)}
		stop := make(chan struct{})
		var busy sync.WaitGroup
		var caches []*cache
		for i := range 5 {
			c := &cache{keys: map[string]bool{}, maxStale: time.Duration(i%3) * 150 * time.Millisecond}
			caches = append(caches, c)
			dataPlane := w.dataPlane().ID
			busy.Go(func() { f.wander(t, dataPlane, c, stop) })
		}
		const revocations = 24
		var complete, byCount atomic.Int64
		var checks sync.WaitGroup
		for i := range revocations {
			if i%8 == 7 {
				f.replace(w, hasty)
			}
			k := w.key()
			for _, c := range caches {
				c.fetch(k.ID)
			}
			f.any().revokeKey(&k)
			revoked := time.Now()
			checks.Go(func() {
				for time.Since(revoked) < patience {
					got, err := f.any().Receipt(t.Context(), k)
					if err != nil || !got.Complete {
						time.Sleep(rand.N(10 * time.Millisecond))
						continue
					}
					for _, c := range caches {
						if c.mayUse(k.ID) {
							t.Errorf("complete, %d of %d, after %v: and one may use it", got.Acknowledged, got.DataPlanes, time.Since(revoked))
						}
					}
					complete.Add(1)
					if got.Acknowledged == got.DataPlanes {
						byCount.Add(1)
					}
					return
				}
				t.Errorf("pending after %v", time.Since(revoked))
			})
			time.Sleep(rand.N(60 * time.Millisecond))
		}
		checks.Wait()
		close(stop)
		busy.Wait()
		require.EqualValues(t, revocations, complete.Load())
		t.Logf("%d of %d by acknowledgements alone", byCount.Load(), complete.Load())
	})
}
