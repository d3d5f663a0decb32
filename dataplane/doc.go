// Package dataplane is the library of a data plane: it finds the provider key that serves a request, keeps it in
// memory, and forgets it within a fraction of a second of its being revoked. Gateways embed it; whoever keeps keys in
// another program follows the rules of spec/dataplane.yaml, which this package implements.
//
// A [Resolver] asks the control plane for a key once (a fetch), and answers from its cache from then on. Three things
// make that safe:
//
//   - The stream. [Resolver.Run] follows the control plane's events over a connection of its own and drops what an
//     event touches, and nothing else. A connection that breaks is resumed where it ended.
//   - The lease. Heartbeats of that stream say up to when everything has been told. They let the cache be used for a
//     second or so, counted on this process's own monotonic clock. When they stop, every call asks the control plane;
//     when nobody answers either, calls fail with [ErrUnavailable]. An operator who prefers to go on serving for a
//     while sets Config.MaxStale; the control plane is told, and waits as much longer before it calls a revocation
//     complete.
//   - The fence. An answer that was on its way while an event passed is used only if it is known to be the newer of the
//     two: its position holds the event's transaction. Otherwise it is thrown away and fetched again.
//
// What it acted on it acknowledges, so that the control plane can prove that a revocation is complete.
//
// Clocks may be set to anything: only durations are used. On Linux a machine's sleep does not count as time passing;
// where machines are suspended and resumed, give Config.Clock one that counts it.
//
// Package dataplanetest has a control plane to test against. Of ours it may import gen/dataplane and internal/secret.
package dataplane
