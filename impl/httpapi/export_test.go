package httpapi

// Len returns how many keys the limiter remembers.
func (l *Limiter) Len() int {
	l.buckets.CleanUp()
	return l.buckets.EstimatedSize()
}

// AddressKey is what failures are counted by.
func AddressKey(ip string) string { return addressKey(ip) }

// LimiterCount is how many keys a limiter may remember.
const LimiterCount = limiterCount
