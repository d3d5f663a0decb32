package cli

import (
	"os"
	"os/user"
	"strings"
)

// maxOperatorLength bounds each half of an operator's name, so that the whole is no longer than a user id may be.
const maxOperatorLength = 31

// Operator names the user of this machine that runs the command, such as alice@host. Under sudo, it names the user that
// called sudo. No user of the API has such a name, as an id has no @. The name is for people who investigate later, and
// proves nothing: anyone who can write to the database can write any name.
func Operator(getenv func(name string) string) string {
	name := getenv("SUDO_USER")
	if name == "" {
		if current, err := user.Current(); err == nil {
			name = current.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return printable(name) + "@" + printable(host)
}

// printable replaces the characters of a name that do not belong in a table, and cuts it to a sensible length.
func printable(name string) string {
	if name == "" {
		return "unknown"
	}
	kept := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
	return kept[:min(len(kept), maxOperatorLength)]
}
