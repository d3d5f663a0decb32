package agentrouter

import (
	"fmt"
	"log/slog"
)

// Secret is a provider's secret in the arguments of a call. It prints as [redacted], in logs and as JSON too.
type Secret string

const redacted = "[redacted]"

// Format implements fmt.Formatter, for all verbs.
func (Secret) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
