package cli

import (
	"fmt"
	"strings"
)

// UsageError says what is wrong with the command line or the settings, one complaint a line. Run exits with ExitUsage.
type UsageError struct{ Complaints []string }

// Error returns the complaints, each on a line of its own.
func (e *UsageError) Error() string { return strings.Join(e.Complaints, "\n") }

// Usagef returns a UsageError with one complaint.
func Usagef(format string, args ...any) error {
	return &UsageError{[]string{fmt.Sprintf(format, args...)}}
}
