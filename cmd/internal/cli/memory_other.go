//go:build !unix

package cli

// HideMemory does nothing: a Windows process writes no core dump unless an administrator has asked for dumps.
func HideMemory() error { return nil }
