//go:build !manual

package cli

import "github.com/spf13/cobra"

// addManual adds nothing: the programs that people run do not write manual pages.
func addManual(*cobra.Command) {}
