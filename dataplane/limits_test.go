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

// served begins requests until one is refused, and returns how many were served.
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
	synctest.Test(t, func(t *testing.T) { // the time in synctest begins at midnight, UTC
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
	clock := new(dataplanetest.Clock)
	r, err := dataplane.New(dataplane.Config{ControlPlane: "http://127.0.0.1:1", Token: func() string { return "dp" }, Clock: clock})
	require.NoError(t, err)
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
	const delay = 5 * time.Second
	for _, step := range []struct {
		after  time.Duration
		counts string
		want   []int
	}{
		{0, `,"data_planes":3`, []int{3, 3}},
		{0, ``, []int{3, 3}},
		{0, `,"data_planes":2,"data_planes_by_customer":[{"customer_id":"globex","data_planes":4}]`, []int{3, 2}},
		{delay - 1, ``, []int{3, 2}}, // disconnected data planes may come back
		{1, ``, []int{5, 2}},
		{0, `,"data_planes":40`, []int{1, 1}}, // at once
		{0, `,"data_planes":1`, []int{1, 1}},
		{delay - 1, `,"data_planes":5`, []int{1, 1}},
		{1, ``, []int{2, 2}},
		{delay, `,"data_planes":0,"data_planes_by_customer":[{"customer_id":"acme","data_planes":-5}]`, []int{2, 2}},
		{delay, ``, []int{10, 10}},
	} {
		clock.Advance(step.after)
		heartbeat(step.counts)
		require.Equal(t, step.want, shares(10), step.counts)
	}
	for i := range 100 { // many heartbeats in quick succession
		heartbeat(fmt.Sprintf(`,"data_planes":%d`, 1+i%5))
		require.LessOrEqual(t, shares(10)[0], 10/min(i+1, 5))
	}
}

func TestConcurrentRequestsNeverExceedTheLimit(t *testing.T) {
	r := unconnected(t)
	var now, most, begun atomic.Int64
	var load sync.WaitGroup
	for i := range 8 {
		load.Go(func() {
			key := &dataplane.Key{ID: "k", Limits: &dataplane.Limits{Concurrent: 3, RequestsPerDay: 1_000_000 + i}} // as after a new fetch
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
	require.LessOrEqual(t, dataplane.SizesOf(r).Limited, dataplane.MaxLimited)
	_, err = r.Begin(busy)
	require.ErrorIs(t, err, dataplane.ErrKeyLimited, "what is in use is kept")
}

// nextIfLimited registers a project's keys, so that the first of them serves. serves asserts which key serves, and
// returns it.
func nextIfLimited(t *testing.T, s *dataplanetest.Env, keys ...dataplanetest.Key) (ids []string, serves func(id, reason string) *dataplane.Key) {
	t.Helper()
	ids = make([]string, len(keys))
	for i := len(keys) - 1; i >= 0; i-- { // the newest serves
		keys[i].NextIfLimited = true
		ids[i] = s.Register(keys[i])
	}
	return ids, func(id, reason string) *dataplane.Key {
		t.Helper()
		key, err := s.R.Resolve(t.Context(), forNobody)
		require.NoError(t, err)
		require.Equal(t, []string{id, reason}, []string{key.ID, key.Reason})
		return key
	}
}

func TestTheNextKeyServesWhileTheFirstIsAside(t *testing.T) {
	const first, next = "project_key", "next_key_limited"
	s := dataplanetest.NewEnv(t)
	pass := func(d time.Duration) {
		s.Clock.Advance(d)
		s.AwaitLease()
	}
	ids, serves := nextIfLimited(t, s, dataplanetest.Key{}, dataplanetest.Key{}, dataplanetest.Key{})
	a := serves(ids[0], first)
	s.R.Report(a, 200)
	serves(ids[0], first)
	s.R.SetAside(a, 10*time.Second)
	s.R.Report(a, 429) // sets the key aside for no longer than the provider said
	var b *dataplane.Key
	s.Fetches(1, func() { b = serves(ids[1], next) })
	s.Fetches(0, func() { serves(ids[1], next) })
	pass(10 * time.Second)
	s.Fetches(0, func() { serves(ids[0], first) })
	for _, aside := range []struct {
		set   func()
		lasts time.Duration
	}{
		{func() { s.R.Report(a, 429) }, 30 * time.Second},
		{func() { s.R.SetAside(a, -time.Hour) }, time.Second},
		{func() { s.R.SetAside(a, 24*time.Hour) }, 5 * time.Minute},
		{func() { s.R.SetAside(a, time.Minute); s.R.SetAside(a, time.Second) }, time.Minute},
	} {
		aside.set()
		serves(ids[1], next)
		pass(aside.lasts - time.Millisecond)
		serves(ids[1], next)
		pass(time.Millisecond)
		serves(ids[0], first)
	}
	s.AwaitTx(s.RotateKey(ids[0], "sk-EXAMPLE-second"))
	s.R.SetAside(a, time.Minute) // the old version
	a = serves(ids[0], first)
	s.R.SetAside(a, time.Minute)
	s.R.SetAside(b, time.Minute)
	c := serves(ids[2], next)
	s.R.SetAside(c, time.Minute)
	serves(ids[0], first) // if all are aside
	s.AwaitTx(s.RevokeKey(ids[0]))
	serves(ids[1], first) // all keys that are left are aside: the first of them serves
	pass(time.Minute)
	serves(ids[1], first)
}

func TestAKeyIsLeftAsideOnlyByAPolicyThatSaysSo(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	s.Register(dataplanetest.Key{})
	id := s.Register(dataplanetest.Key{})
	key, err := s.R.Resolve(t.Context(), forNobody)
	require.NoError(t, err)
	s.R.SetAside(key, time.Minute)
	s.R.Report(key, 429)
	s.R.SetAside(nil, time.Minute)
	s.Fetches(0, func() { s.Serves(forNobody, id) })
	s.Serves(dataplane.ByID(id), id)
}

func TestAKeyAtItsOwnLimitIsPassedOver(t *testing.T) {
	s := dataplanetest.NewEnv(t, func(cfg *dataplane.Config) { cfg.Limits = true })
	two := &gen.KeyLimit{Concurrent: new(2)}
	ids, serves := nextIfLimited(t, s, dataplanetest.Key{Limit: two}, dataplanetest.Key{Limit: two})
	var ends []func()
	for _, want := range []struct{ id, reason string }{
		{ids[0], "project_key"}, {ids[0], "project_key"}, {ids[1], "next_key_limited"}, {ids[1], "next_key_limited"},
	} {
		end, err := s.R.Begin(serves(want.id, want.reason))
		require.NoError(t, err)
		ends = append(ends, end)
	}
	_, err := s.R.Begin(serves(ids[0], "project_key"))
	require.ErrorIs(t, err, dataplane.ErrKeyLimited)
	ends[3]()
	serves(ids[1], "next_key_limited")
	ends[0]()
	serves(ids[0], "project_key")
}

func TestWithoutAnAnswerAboutTheNextKeyTheFirstServes(t *testing.T) {
	s := dataplanetest.NewEnv(t)
	ids, serves := nextIfLimited(t, s, dataplanetest.Key{}, dataplanetest.Key{})
	key := serves(ids[0], "project_key")
	s.R.SetAside(key, time.Minute)
	s.SetFault(dataplanetest.InternalError, dataplanetest.Fetch)
	serves(ids[0], "project_key")
	hold := s.HoldAnswers()
	s.SetFault(dataplanetest.Healthy)
	result := s.ResolveAsync(t.Context(), forNobody)
	hold.Wait()
	s.AwaitTx(s.RevokeKey(ids[0])) // while the resolver looks for the next key
	s.AwaitTx(s.RevokeKey(ids[1]))
	hold.Release()
	require.ErrorIs(t, (<-result).Err, dataplane.ErrKeyRevoked)
}

func TestAClockThatIsSetBackGivesNoFreshMinute(t *testing.T) {
	r, key := unconnected(t), &dataplane.Key{ID: "k", Limits: &dataplane.Limits{RequestsPerMinute: 1, RequestsPerDay: 3}}
	noon := time.Date(2026, 11, 30, 12, 0, 30, 0, time.UTC)
	for _, step := range []struct {
		wall, passed time.Duration
		served       bool
	}{
		{0, 0, true},
		{0, 0, false},
		{-time.Minute, time.Second, false},                     // set back
		{0, 2 * time.Second, false},                            // and forth
		{-24 * time.Hour, 3 * time.Second, false},              // to another day
		{-24*time.Hour + time.Minute, 59 * time.Second, false}, // a minute has not passed
		{-24*time.Hour + time.Minute, time.Minute, true},
		{-24*time.Hour + 2*time.Minute, 2 * time.Minute, true},
		{-24*time.Hour + 3*time.Minute, 3 * time.Minute, false}, // the limit of the day
		{-time.Hour, 24*time.Hour - time.Second, false},
		{-23 * time.Hour, 24 * time.Hour, true}, // the other day began long ago
	} {
		require.Equal(t, step.served, dataplane.BeginAt(r, key, noon.Add(step.wall), step.passed), "%v", step)
	}
}
