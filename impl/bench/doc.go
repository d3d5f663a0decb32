// Package bench measures the service against what its machine can do, side by side in one run: `make bench`. Every figure is
// a ratio of two rates taken in turns, several rounds of which are run; a round in which the host took the processor away
// does not count. The service runs as its users run it, as a process behind a socket, under wrk; the limits are pgbench
// running the service's own statements, a bare Echo handler, and the disk's fdatasync.
//
// It holds only benchmarks. It may import what impl may.
package bench
