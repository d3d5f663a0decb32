package settings

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

// Text takes every text.
func Text(to *string) func(string) error {
	return func(text string) error {
		*to = text
		return nil
	}
}

// List takes texts with commas between, or nothing.
func List(to *[]string) func(string) error {
	return func(text string) error {
		var found []string
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				found = append(found, part)
			}
		}
		*to = found
		return nil
	}
}

// Choice takes one of the choices.
func Choice(to *string, choices ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(choices, text) {
			return fmt.Errorf("must be one of %s", strings.Join(choices, ", "))
		}
		*to = text
		return nil
	}
}

// Switch takes true or false; its setting has no Arg.
func Switch(to *bool) func(string) error {
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

// Count takes a whole number within bounds.
func Count(to *int, least, most int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("must be a whole number from %d to %d", least, most)
		}
		*to = n
		return nil
	}
}

// Quantity takes a number, 0 or more.
func Quantity(to *float64) func(string) error {
	return func(text string) error {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(n) || n < 0 || n > 1e9 {
			return errors.New("must be a number, 0 or more")
		}
		*to = n
		return nil
	}
}

// Duration takes a duration above zero.
func Duration(to *time.Duration) func(string) error {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return errors.New("must be a duration above zero, such as 20s or 1m30s")
		}
		*to = d
		return nil
	}
}

// Address takes host:port.
func Address(to *string) func(string) error {
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

// Networks takes networks and addresses with commas between, or nothing.
func Networks(to *[]netip.Prefix) func(string) error {
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

// IsLoopback tells whether only this machine can reach the host of a host:port.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}
