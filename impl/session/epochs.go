package session

import (
	"hash/crc32"
	"sync/atomic"
)

// epochs counts the revocations of API keys. A session carries the count that it was looked up at and is void once the
// count has moved, so a revocation needs no lock and no search, and can't be undone by a look-up that it overtook.
//
// Ids share counters: a revocation also voids one in 256 of the other sessions, which costs each a look-up that was at
// most Config.CacheTTL away.
type epochs [256]atomic.Uint64

func (e *epochs) of(tokenID string) uint64 { return e.counter(tokenID).Load() }
func (e *epochs) advance(tokenID string)   { e.counter(tokenID).Add(1) }
func (e *epochs) counter(tokenID string) *atomic.Uint64 {
	return &e[crc32.ChecksumIEEE([]byte(tokenID))%uint32(len(e))]
}
