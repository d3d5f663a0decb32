package kms

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// maxCached bounds the number of cached data keys; 10,000 take about 3 MB.
const maxCached = 10_000

// keyDigest identifies a wrapped data key, together with the KEK and the binding under which it unwraps.
type keyDigest [sha256.Size]byte

func digestOf(kekID string, wrapped, associatedData []byte) keyDigest {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(kekID), wrapped, associatedData} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a hash never fails
		h.Write(part)
	}
	return keyDigest(h.Sum(nil))
}

// keyCache caches unwrapped data keys, and zeroes those that it drops. A nil keyCache is always empty.
type keyCache struct {
	keys *otter.Cache[keyDigest, *cachedKey]
}

// cachedKey is a data key in the cache.
type cachedKey struct {
	mu      sync.Mutex
	dataKey []byte // guarded by mu; nil once it was dropped
}

// newKeyCache returns a cache that keeps each data key for ttl, or nil if ttl is 0.
func newKeyCache(ttl time.Duration) *keyCache {
	if ttl <= 0 {
		return nil
	}
	return &keyCache{keys: otter.Must(&otter.Options[keyDigest, *cachedKey]{
		MaximumSize:      maxCached,
		ExpiryCalculator: otter.ExpiryWriting[keyDigest, *cachedKey](ttl),
		OnAtomicDeletion: func(e otter.DeletionEvent[keyDigest, *cachedKey]) {
			e.Value.mu.Lock()
			defer e.Value.mu.Unlock()
			clear(e.Value.dataKey)
			e.Value.dataKey = nil
		},
	})}
}

// get returns a copy of a data key, or nil if the data key is not cached. The caller zeroes the copy.
func (c *keyCache) get(digest keyDigest) []byte {
	if c == nil {
		return nil
	}
	found, ok := c.keys.GetIfPresent(digest)
	if !ok {
		return nil
	}
	found.mu.Lock()
	defer found.mu.Unlock()
	return bytes.Clone(found.dataKey)
}

// put stores a copy of a data key. If the data key is already cached, its time is not extended.
func (c *keyCache) put(digest keyDigest, dataKey []byte) {
	if c != nil {
		c.keys.SetIfAbsent(digest, &cachedKey{dataKey: bytes.Clone(dataKey)})
	}
}

// drop drops one data key.
func (c *keyCache) drop(digest keyDigest) {
	if c != nil {
		c.keys.Invalidate(digest)
	}
}

// close drops all data keys.
func (c *keyCache) close() {
	if c != nil {
		c.keys.InvalidateAll()
		c.keys.StopAllGoroutines()
	}
}
