// Package gateway serves inference requests with the keys that a resolver finds. It has three faces:
//
//   - New is a reverse proxy: /{provider}/… goes to the provider's base URL with the caller's credential taken out
//     and the provider's key put in.
//   - NewForwardAuth answers other proxies that ask over HTTP (nginx, Caddy, Traefik), and extauthz answers Envoy over
//     gRPC: they learn which header to set, and pass the request on themselves.
//
// All three read a caller's credential in one way (CallerOf), and refuse in one way (ProblemOf). None of them ever
// tries a request a second time: what the provider answers is the answer, and the resolver is told of its status.
//
// Serve runs a handler on a listener with limits that leave streams alone, and NewOps is the handler for operators.
//
// It may import dataplane and nothing else of ours.
package gateway
