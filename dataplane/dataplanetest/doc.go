// Package dataplanetest has a control plane in memory to test data planes against, over a real socket, and the environment
// that the tests of the library, the gateway and extauthz share.
//
// The control plane follows spec/dataplane.yaml as the real one does: positions with transactions that commit late, as_of,
// reset, refusals with their problem documents. It fails on demand: it hangs, answers nonsense, goes down, cuts connections
// or leaves them half open, holds back answers, sends no heartbeats. Its time can be a Clock that stands still until a test
// moves it.
//
// Only tests may import it.
package dataplanetest
