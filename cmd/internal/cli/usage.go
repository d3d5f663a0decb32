package cli

import (
	"fmt"
	"strings"
)

// UsageError is an error in the command line or the settings. Run exits with ExitUsage for it.
type UsageError struct{ Complaints []string }

// Error returns the complaints, one a line.
func (e *UsageError) Error() string { return strings.Join(e.Complaints, "\n") }

// Usagef returns a UsageError with one complaint.
func Usagef(format string, args ...any) error {
	return &UsageError{[]string{fmt.Sprintf(format, args...)}}
}
