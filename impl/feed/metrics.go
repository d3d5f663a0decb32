package feed

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the counters of a feed. docs/operations.md lists them with the gauges.
type metrics struct {
	changes *prometheus.CounterVec
	ended   *prometheus.CounterVec
}

func newMetrics(f *Feed, registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_feed_changes_total", Help: "Changes read from the database, by type.",
		}, []string{"type"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_feed_streams_ended_total", Help: "Streams of data planes that ended, by reason.",
		}, []string{"reason"}),
	}
	if registerer == nil {
		return m, nil
	}
	streams := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "aikeys_feed_streams", Help: "Data planes that are connected.",
	}, func() float64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		return float64(f.open)
	})
	readAge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "aikeys_feed_read_age_seconds", Help: "Time since changes were last read. Leases end when it exceeds theirs.",
	}, func() float64 {
		f.mu.Lock()
		defer f.mu.Unlock()
		return (f.clock() - f.readAt).Seconds()
	})
	for _, c := range []prometheus.Collector{m.changes, m.ended, streams, readAge} {
		if err := registerer.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of the feed: %w", err)
		}
	}
	return m, nil
}
