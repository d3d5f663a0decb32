// Package bench compares the service with what its machine can do; `make bench` runs the benchmarks. Most figures are
// ratios of two rates. A benchmark measures both in turn, for several rounds, and does not count a round in which the
// host took processor time away. The service runs as a process behind a socket, as its users run it, under wrk. The
// service is compared with pgbench running the service's own statements, with a bare Echo handler, and with the disk's
// fdatasync.
//
// It holds only benchmarks. It may import what impl may.
package bench
