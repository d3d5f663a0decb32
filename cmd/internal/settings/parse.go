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

	"github.com/agentrouter/aikeys/internal/crossorigin"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

// This file has the parsers of settings. Each stores a value, or returns an error that says what is expected. The error
// does not repeat the text, which may be a secret in the wrong variable.

// store returns a parser that stores the value that parse returns. If parse refuses the text, the parser returns the
// error wanted.
func store[T any](to *T, wanted string, parse func(text string) (value T, ok bool)) func(string) error {
	return func(text string) error {
		value, ok := parse(text)
		if !ok {
			return errors.New(wanted)
		}
		*to = value
		return nil
	}
}

// Text accepts every text.
func Text(to *string) func(string) error {
	return store(to, "", func(text string) (string, bool) { return text, true })
}

// File accepts every path and stores nothing: OrFile reads the file.
func File(string) error { return nil }

// Optional accepts an empty text, and otherwise what parse accepts.
func Optional(parse func(string) error) func(string) error {
	return func(text string) error {
		if text == "" {
			return nil
		}
		return parse(text)
	}
}

// List accepts texts separated by commas, or nothing.
func List(to *[]string) func(string) error {
	return store(to, "", func(text string) ([]string, bool) { return split(text), true })
}

func split(text string) (parts []string) {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// Choice accepts one of the choices.
func Choice(to *string, choices ...string) func(string) error {
	return store(to, "must be one of "+strings.Join(choices, ", "), func(text string) (string, bool) {
		return text, slices.Contains(choices, text)
	})
}

// Switch accepts true or false. Its setting has no Arg.
func Switch(to *bool) func(string) error {
	return store(to, "must be true or false", func(text string) (value, ok bool) {
		return text == "true", text == "true" || text == "false"
	})
}

// Count accepts a whole number from least to most.
func Count(to *int, least, most int) func(string) error {
	return store(to, fmt.Sprintf("must be a whole number from %d to %d", least, most), func(text string) (int, bool) {
		n, err := strconv.Atoi(text)
		return n, err == nil && n >= least && n <= most
	})
}

// Quantity accepts a number from 0 to 1e9.
func Quantity(to *float64) func(string) error {
	return store(to, "must be a number, 0 or more", func(text string) (float64, bool) {
		n, err := strconv.ParseFloat(text, 64)
		return n, err == nil && !math.IsNaN(n) && n >= 0 && n <= 1e9
	})
}

// Duration accepts a duration above zero.
func Duration(to *time.Duration) func(string) error {
	return store(to, "must be a duration above zero, such as 20s or 1m30s", func(text string) (time.Duration, bool) {
		d, err := time.ParseDuration(text)
		return d, err == nil && d > 0
	})
}

// UpToAnHour accepts a duration from 0 to one hour.
func UpToAnHour(to *time.Duration) func(string) error {
	return store(to, "must be a duration from 0s to 1h, such as 30s", func(text string) (time.Duration, bool) {
		d, err := time.ParseDuration(text)
		return d, err == nil && d >= 0 && d <= time.Hour
	})
}

// Address accepts host:port.
func Address(to *string) func(string) error {
	return store(to, "must be host:port, such as 127.0.0.1:8080", func(text string) (string, bool) {
		_, port, err := net.SplitHostPort(text)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		return text, err == nil
	})
}

// maxSocketPath is the maximum length of a socket's path in bytes. With the final zero byte it is 104, the smallest limit of
// the supported systems.
const maxSocketPath = 103

// AddressOrSocket accepts host:port, or unix:<path>.
func AddressOrSocket(to *string) func(string) error {
	return func(text string) error {
		path, isSocket := strings.CutPrefix(text, unixsocket.Prefix)
		switch {
		case isSocket && path == "":
			return errors.New("must be unix:<path> or host:port")
		case isSocket && len(path) > maxSocketPath:
			return errors.New("the path of a unix socket may have at most 103 bytes")
		case isSocket:
			*to = text
			return nil
		case Address(to)(text) != nil:
			return errors.New("must be unix:<path> or host:port, such as unix:/run/aikeys/api.sock or 10.0.0.5:8443")
		}
		return nil
	}
}

// Networks accepts networks and addresses separated by commas, or nothing.
func Networks(to *[]netip.Prefix) func(string) error {
	const wanted = "must be networks or addresses with commas between, such as 10.0.0.0/8,192.0.2.1"
	return store(to, wanted, func(text string) (found []netip.Prefix, ok bool) {
		for _, part := range split(text) {
			prefix, err := netip.ParsePrefix(part)
			if addr, addrErr := netip.ParseAddr(part); addrErr == nil {
				prefix, err = addr.Prefix(addr.BitLen())
			}
			if err != nil {
				return nil, false
			}
			found = append(found, prefix)
		}
		return found, true
	})
}

// Origins accepts origins of web pages separated by commas, or nothing.
func Origins(to *[]string) func(string) error {
	return store(to, crossorigin.ErrOrigin.Error()+"; several with commas between", func(text string) (found []string, ok bool) {
		found = split(text)
		return found, !slices.ContainsFunc(found, func(origin string) bool { return crossorigin.Check(origin) != nil })
	})
}
