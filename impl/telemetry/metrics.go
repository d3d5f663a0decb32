package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a registry with the metrics of the process, of the Go runtime, of the build and of more collectors.
func NewRegistry(more ...prometheus.Collector) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	registry.MustRegister(more...)
	return registry
}

// PoolStats describes the connections of a pool to the database.
type PoolStats struct {
	InUse, Idle, Max int
	Waits            int64 // times that no connection was idle
}

// NewPoolCollector returns the metrics of a pool. stats returns the pool's state.
func NewPoolCollector(stats func() PoolStats) prometheus.Collector { return poolCollector{stats} }

// poolCollector asks once for all of its metrics.
type poolCollector struct{ stats func() PoolStats }

var (
	poolConnections = prometheus.NewDesc("aikeys_db_connections", "Connections to the database, by state.", []string{"state"}, nil)
	poolMax         = prometheus.NewDesc("aikeys_db_connections_max", "Maximum number of connections to the database.", nil, nil)
	poolWaits       = prometheus.NewDesc("aikeys_db_connection_waits_total", "Times that no connection was idle, and one had to be opened or waited for.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c poolCollector) Describe(to chan<- *prometheus.Desc) {
	to <- poolConnections
	to <- poolMax
	to <- poolWaits
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(to chan<- prometheus.Metric) {
	stats := c.stats()
	to <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(stats.InUse), "in_use")
	to <- prometheus.MustNewConstMetric(poolConnections, prometheus.GaugeValue, float64(stats.Idle), "idle")
	to <- prometheus.MustNewConstMetric(poolMax, prometheus.GaugeValue, float64(stats.Max))
	to <- prometheus.MustNewConstMetric(poolWaits, prometheus.CounterValue, float64(stats.Waits))
}
