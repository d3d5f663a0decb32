package ratelimit

// MaxKeys exports maxKeys.
const MaxKeys = maxKeys

// Len returns how many keys the limiter holds.
func (l *Limiter[K]) Len() int {
	l.buckets.CleanUp()
	return l.buckets.EstimatedSize()
}
