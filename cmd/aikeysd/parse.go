package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The parsers of settings. Each returns a function that stores a text's value, or says what is wanted in its place
// without repeating the text, which may be a secret in the wrong variable.

func text(to *string) func(string) error {
	return func(text string) error {
		*to = text
		return nil
	}
}

func choice(to *string, choices ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(choices, text) {
			return fmt.Errorf("must be one of %s", strings.Join(choices, ", "))
		}
		*to = text
		return nil
	}
}

func yes(to *bool) func(string) error {
	return func(text string) error {
		switch text {
		case "true":
			*to = true
		case "false":
			*to = false
		default:
			return errors.New("must be true or false")
		}
		return nil
	}
}

func count(to *int, least, most int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("must be a whole number from %d to %d", least, most)
		}
		*to = n
		return nil
	}
}

func quantity(to *float64) func(string) error {
	return func(text string) error {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) || n < 0 || n > 1e9 {
			return errors.New("must be a number, 0 or more")
		}
		*to = n
		return nil
	}
}

func duration(to *time.Duration) func(string) error {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return errors.New("must be a duration above zero, such as 20s or 1m30s")
		}
		*to = d
		return nil
	}
}

// lifetime parses how long an API key is good for: a duration, or whole days. Zero is for good.
func lifetime(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, nil
	}
	return 0, errors.New("must be hours or days above zero, such as 720h or 30d; leave it out for an API key that does not expire")
}

func address(to *string) func(string) error {
	return func(text string) error {
		_, port, err := net.SplitHostPort(text)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return errors.New("must be host:port, such as 127.0.0.1:8080")
		}
		*to = text
		return nil
	}
}

func networks(to *[]netip.Prefix) func(string) error {
	return func(text string) error {
		var found []netip.Prefix
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			prefix, err := network(part)
			if err != nil {
				return errors.New("must be networks or addresses with commas between, such as 10.0.0.0/8,192.0.2.1")
			}
			found = append(found, prefix)
		}
		*to = found
		return nil
	}
}

func network(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	return netip.ParsePrefix(text)
}

// isLoopback tells whether only this machine can reach the host of a host:port.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}
