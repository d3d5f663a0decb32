// Package cli has what all programs need around their own work: running a command and reporting its result, exit codes,
// signals, help, version, the log, and the pace of the garbage collector. Package settings has the settings.
package cli
