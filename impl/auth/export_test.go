package auth

// CacheLen returns the number of cached sessions.
func (a *Authenticator) CacheLen() int {
	a.cache.CleanUp()
	return a.cache.EstimatedSize()
}
