// Package cli is what our programs have in common around their own work: running a command and telling what became of it,
// exit codes, signals, help, version, the log, the garbage collector's pace. What may be set is in package settings.
//
// It knows none of the programs, and imports nothing of ours.
package cli
