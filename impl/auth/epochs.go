package auth

import (
	"hash/crc32"
	"sync/atomic"
)

// epochs counts the revocations of API keys. A session carries the count that it was looked up at and is void once the
// count has moved, so a revocation needs no lock and no search, and can't be undone by a look-up that it overtook.
//
// Ids share counters: a revocation also voids one in 256 of the other sessions, which costs each a look-up that was at
// most Config.CacheTTL away.
type epochs [epochCount]atomic.Uint64

const epochCount = 256

func (e *epochs) of(tokenID string) uint64 { return e[counter(tokenID)].Load() }
func (e *epochs) advance(tokenID string)   { e[counter(tokenID)].Add(1) }

// snapshot is what the epochs are now: for who does not know the token yet, of which they will ask.
func (e *epochs) snapshot() (s snapshot) {
	for i := range e {
		s[i] = e[i].Load()
	}
	return s
}

// snapshot is the epochs at one time.
type snapshot [epochCount]uint64

func (s *snapshot) of(tokenID string) uint64 { return s[counter(tokenID)] }

func counter(tokenID string) uint32 { return crc32.ChecksumIEEE([]byte(tokenID)) % epochCount }
