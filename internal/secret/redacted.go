package secret

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Redacted makes a type that embeds it print and log as "[redacted]".
type Redacted struct{}

// Format makes every verb of package fmt print "[redacted]", including %x and %d.
func (Redacted) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, redacted) // a fmt.State can't report a failed write
}

// String returns "[redacted]".
func (Redacted) String() string { return redacted }

// GoString returns "[redacted]".
func (Redacted) GoString() string { return redacted }

// LogValue makes package slog log "[redacted]".
func (Redacted) LogValue() slog.Value { return slog.StringValue(redacted) }
