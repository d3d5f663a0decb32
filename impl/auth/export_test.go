package auth

// CacheLen returns the number of cached sessions.
func (a *Authenticator) CacheLen() int {
	a.cache.CleanUp()
	return a.cache.EstimatedSize()
}

// AddressKey exports addressKey.
func AddressKey(ip string) string { return addressKey(ip) }
