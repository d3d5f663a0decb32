// Package dataplanetest is a control plane in memory, to test data planes against over a real socket. It keeps the
// rules of spec/dataplane.yaml as the real one does: positions with transactions that commit late, as_of, reset,
// refusals with their problem documents. And it fails on demand: it hangs, answers nonsense, goes down, cuts
// connections or leaves them half open, holds back answers, stops its heart. Its time can be a Clock that stands still
// until it is moved.
//
// Of ours it may import dataplane, gen/dataplane and internal/secret. Only tests may import it.
package dataplanetest
