package main

import "github.com/agentrouter/aikeys/cmd/internal/cli"

// The exit codes, which "tare help exit-codes" lists from exitCodes.
const (
	exitOK              = cli.ExitOK
	exitFailure         = cli.ExitFailure
	exitUsage           = cli.ExitUsage
	exitUnauthenticated = 3
	exitDenied          = 4
	exitNotFound        = 5
	exitConflict        = 6
	exitUnavailable     = 7
	exitPending         = 8
	exitDeclined        = 9
	exitStopped         = 130
)

// exitCode is one row of the documented list.
type exitCode struct {
	code    int
	meaning string
}

func exitCodes() []exitCode {
	return []exitCode{
		{exitOK, "all is well"},
		{exitFailure, "something unexpected: a fault of the service, an answer that is none, a file that can't be written"},
		{exitUsage, "the command line, a setting, or a value in it is wrong"},
		{exitUnauthenticated, "no session: no API key, or one that the service does not take"},
		{exitDenied, "permission denied: your role does not suffice, or you are no member of the project"},
		{exitNotFound, "not found, or not for you to see"},
		{exitConflict, "conflict: the name is taken, or the project would lose its last owner"},
		{exitUnavailable, "unavailable: no connection, no answer in time, or too many requests; try again later"},
		{exitPending, "the key is revoked, and not every data plane has confirmed yet"},
		{exitDeclined, "you were asked, and did not say yes; nothing was done"},
		{exitStopped, "stopped by a signal, such as Ctrl-C"},
	}
}
