package aikeys

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// SecretText is a field that the document marks x-secret. It goes over the wire as it is and prints as [redacted]
// everywhere else, so that a request that ends in a log or an error shows nothing.
type SecretText string

// Format prints [redacted] for every verb.
func (SecretText) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns [redacted].
func (SecretText) String() string { return redacted }

// LogValue returns [redacted].
func (SecretText) LogValue() slog.Value { return slog.StringValue(redacted) }
