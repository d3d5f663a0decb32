package main

import (
	"net/netip"
	"net/url"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// checkBaseURL returns the base URL as it is used, or says what is wrong with it. It never repeats it: a password may be
// in it.
func checkBaseURL(address string, insecure bool) (string, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "", cli.Usagef("the base URL must be like https://aikeys.example.com")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", cli.Usagef("the base URL must have no user, query or fragment")
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return "", cli.Usagef("the base URL is http:// to another machine: everybody on the way could read your API key and " +
			"the provider keys; use https://, or --insecure on a network that nobody else reaches")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
