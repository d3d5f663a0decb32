package dataplane_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// unconnected returns a resolver that asks no control plane.
func unconnected(t *testing.T) *dataplane.Resolver {
	t.Helper()
	r, err := dataplane.New(dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return "dp" }})
	require.NoError(t, err)
	return r
}

// served begins requests until one is refused, and returns how many were not.
func served(t *testing.T, r *dataplane.Resolver, key *dataplane.Key) (n int, limited *dataplane.LimitError) {
	t.Helper()
	for {
		_, err := r.Begin(key)
		if err == nil {
			n++
			continue
		}
		require.ErrorIs(t, err, dataplane.ErrKeyLimited)
		require.ErrorAs(t, err, &limited)
		return n, limited
	}
}

func TestLimitedKeysAreForProgramsThatEnforceThem(t *testing.T) {
	cp := dataplanetest.NewControlPlane(t)
	cp.RegisterKey(dataplanetest.Key{Limit: &gen.KeyLimit{RequestsPerMinute: new(3), Concurrent: new(2)}})
	cfg := cp.Config()
	r, err := dataplane.New(cfg)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), forNobody)
	require.ErrorIs(t, err, dataplane.ErrNoKey)
	cfg.Limits = true
	r, err = dataplane.New(cfg)
	require.NoError(t, err)
	key, err := r.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	require.Equal(t, &dataplane.Limits{RequestsPerMinute: 3, Concurrent: 2}, key.Limits)
}

func TestMinutesAndDaysBeginWithTheClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which begins at midnight, UTC
		r, key := unconnected(t), &dataplane.Key{ID: "k", Limits: &dataplane.Limits{RequestsPerMinute: 2, RequestsPerDay: 5}}
		time.Sleep(20 * time.Second)
		n, limited := served(t, r, key)
		require.Equal(t, []any{2, "requests_per_minute", 40 * time.Second}, []any{n, limited.Limit, limited.RetryAfter})
		time.Sleep(limited.RetryAfter)
		n, _ = served(t, r, key)
		require.Equal(t, 2, n, "what is refused does not count")
		time.Sleep(time.Minute)
		n, limited = served(t, r, key)
		require.Equal(t, []any{1, "requests_per_day", 24*time.Hour - 2*time.Minute}, []any{n, limited.Limit, limited.RetryAfter})
		key = &dataplane.Key{ID: "k", Limits: &dataplane.Limits{RequestsPerDay: 7}}
		n, _ = served(t, r, key)
		require.Equal(t, 2, n, "another limit acts on what was counted so far")
		time.Sleep(limited.RetryAfter)
		n, _ = served(t, r, key)
		require.Equal(t, 7, n)
		_, err := r.Begin(&dataplane.Key{ID: "k"})
		require.NoError(t, err, "a key without limits is not counted")
	})
}

func TestAShareFollowsTheNumberOfDataPlanes(t *testing.T) {
	r := unconnected(t)
	heartbeat := func(counts string) {
		t.Helper()
		stream := `data: {"type":"hello","session_id":"s","clock_ms":0,"lease_ms":1000}` + "\n\n" + `id: 1:1:` + "\n" +
			`data: {"type":"heartbeat","clock_ms":1` + counts + "}\n\n"
		_ = dataplane.Feed(r, strings.NewReader(stream)) // to its end
	}
	shares := func(limit int) (shares []int) {
		for i, customer := range []string{"acme", "globex"} {
			ends := make([]func(), 0, limit)
			key := &dataplane.Key{ID: fmt.Sprint(i), CustomerID: customer, Limits: &dataplane.Limits{Concurrent: limit}}
			for end, err := r.Begin(key); err == nil; end, err = r.Begin(key) {
				ends = append(ends, end)
			}
			for _, end := range ends {
				end()
				end() // a second call counts nothing
			}
			shares = append(shares, len(ends))
		}
		return shares
	}
	require.Equal(t, []int{10, 10}, shares(10), "before a control plane says anything")
	for _, step := range []struct {
		counts string
		want   []int
	}{
		{`,"data_planes":3`, []int{3, 3}},
		{``, []int{3, 3}},
		{`,"data_planes":2,"data_planes_by_customer":[{"customer_id":"globex","data_planes":4}]`, []int{5, 2}},
		{`,"data_planes":40`, []int{1, 1}},
		{`,"data_planes":1`, []int{10, 10}},
		{`,"data_planes":0,"data_planes_by_customer":[{"customer_id":"acme","data_planes":-5}]`, []int{10, 10}},
	} {
		heartbeat(step.counts)
		require.Equal(t, step.want, shares(10), step.counts)
	}
}

func TestConcurrentRequestsNeverExceedTheLimit(t *testing.T) {
	r := unconnected(t)
	var now, most, begun atomic.Int64
	var load sync.WaitGroup
	for i := range 8 {
		load.Go(func() {
			key := &dataplane.Key{ID: "k", Limits: &dataplane.Limits{Concurrent: 3, RequestsPerDay: 1_000_000 + i}} // each fetch has its own
			for range 2_000 {
				end, err := r.Begin(key)
				if err != nil {
					continue
				}
				begun.Add(1)
				at := now.Add(1)
				for old := most.Load(); at > old && !most.CompareAndSwap(old, at); old = most.Load() {
				}
				now.Add(-1)
				end()
			}
		})
	}
	load.Wait()
	require.Positive(t, begun.Load())
	require.LessOrEqual(t, most.Load(), int64(3))
	n, _ := served(t, r, &dataplane.Key{ID: "k", Limits: &dataplane.Limits{Concurrent: 3}})
	require.Equal(t, 3, n, "all have ended")
}

func TestCountsOfKeysAreBounded(t *testing.T) {
	r := unconnected(t)
	busy := &dataplane.Key{ID: "busy", Limits: &dataplane.Limits{Concurrent: 1}}
	_, err := r.Begin(busy)
	require.NoError(t, err)
	for i := range dataplane.MaxLimited + 10 {
		end, err := r.Begin(&dataplane.Key{ID: fmt.Sprint(i), Limits: &dataplane.Limits{RequestsPerDay: 1}})
		require.NoError(t, err)
		end()
	}
	require.LessOrEqual(t, dataplane.Limited(r), dataplane.MaxLimited)
	_, err = r.Begin(busy)
	require.ErrorIs(t, err, dataplane.ErrKeyLimited, "what is in use is kept")
}
