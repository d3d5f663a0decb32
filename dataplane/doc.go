// Package dataplane is the library of a data plane: it finds the provider key that serves a request, keeps it in
// memory, and forgets it within a fraction of a second of its revocation. Gateways embed it. A program in another
// language follows the rules of spec/dataplane.yaml, which this package implements.
//
// A [Resolver] asks the control plane for a key once (a fetch) and answers from its cache from then on. Three things
// make that safe:
//
//   - The stream. [Resolver.Run] follows the control plane's events over a connection of its own and drops the cached
//     answers that an event touches, and no others. After the connection breaks, the stream resumes where it ended.
//   - The lease. A heartbeat on the stream says that every change up to its time has been sent. It lets the cache be
//     used for about a second, measured on this process's monotonic clock. When heartbeats stop, every call asks the
//     control plane; when that does not answer either, calls fail with [ErrUnavailable]. Config.MaxStale lets an
//     operator serve cached keys for longer. The data plane declares this time to the control plane, and the control
//     plane calls a revocation complete only after it.
//   - The fence. An answer that was in flight while an event arrived is used only if its position contains the event's
//     transaction, that is, if the answer is newer than the event. Otherwise it is discarded and fetched again.
//
// The resolver acknowledges the positions that it has acted on, so that the control plane can prove that a revocation
// is complete.
//
// The time of day is never used, only durations. On Linux the monotonic clock stops while a machine is suspended; where
// machines are suspended and resumed, set Config.Clock to a clock that keeps counting.
//
// Package dataplanetest has a control plane to test against.
package dataplane
