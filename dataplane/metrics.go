package dataplane

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what a Resolver does. The counters of Resolve are fields, so that a hit needs no look-up by label.
type metrics struct {
	hit, stale, fetched, negative, refused, unavailable prometheus.Counter

	fetchTime prometheus.Histogram
	events    *prometheus.CounterVec
	discarded prometheus.Counter
	uncounted prometheus.Counter
	limited   *prometheus.CounterVec
}

// newMetrics returns the metrics, registered unless registerer is nil.
func newMetrics(registerer prometheus.Registerer, r *Resolver) (*metrics, error) {
	resolves := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "aikeys_dataplane_resolves_total",
		Help: "Calls of Resolve, by outcome: hit, stale, fetched, negative (a refusal from the cache), refused, unavailable.",
	}, []string{"outcome"})
	m := &metrics{
		hit: resolves.WithLabelValues("hit"), stale: resolves.WithLabelValues("stale"),
		fetched: resolves.WithLabelValues("fetched"), negative: resolves.WithLabelValues("negative"),
		refused: resolves.WithLabelValues("refused"), unavailable: resolves.WithLabelValues("unavailable"),
		fetchTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "aikeys_dataplane_fetch_duration_seconds", Help: "Time that fetches from the control plane took.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_dataplane_events_total", Help: "Changes received on the stream, by type.",
		}, []string{"type"}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_dataplane_fetches_discarded_total", Help: "Answers discarded because they were older than an event.",
		}),
		uncounted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "aikeys_dataplane_usage_lost_total", Help: "Requests missing in the usage, because too many counts waited or a count waited too long.",
		}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_dataplane_limited_total", Help: "Requests for which a key was at its limit here, by limit.",
		}, []string{"limit"}),
	}
	for _, limit := range []string{limitPerDay, limitPerMinute, limitConcurrent} {
		m.limited.WithLabelValues(limit) // so that each limit is exported before it is first reached
	}
	if registerer == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	var failed []error
	for _, c := range []prometheus.Collector{
		resolves, m.fetchTime, m.events, m.discarded, m.uncounted, m.limited,
		gauge("aikeys_dataplane_entries", "Answers in the cache.", func() float64 { return float64(r.store.size()) }),
		gauge("aikeys_dataplane_lease_seconds", "Time for which the cache may be used without asking.",
			func() float64 { return r.leaseRemaining(0).Seconds() }),
		gauge("aikeys_dataplane_stream_connected", "1 while a stream of events is open.", func() float64 {
			if r.Status().Connected {
				return 1
			}
			return 0
		}),
	} {
		failed = append(failed, registerer.Register(c))
	}
	return m, errors.Join(failed...)
}
