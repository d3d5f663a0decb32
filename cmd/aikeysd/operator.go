package main

import (
	"os"
	"os/user"
	"strings"
)

// maxOperator bounds each half of an operator's name.
const maxOperator = 64

// operator is who runs a command, as far as the system tells: alice@host. Under sudo it is whoever called that. Who may write
// to the database could say anything; it is for those who look afterwards, and proves nothing.
func (p *program) operator() string {
	name := p.Getenv("SUDO_USER")
	if name == "" {
		if current, err := user.Current(); err == nil {
			name = current.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return legible(name) + "@" + legible(host)
}

// legible makes a name fit for a table that people read.
func legible(name string) string {
	if name == "" {
		return "unknown"
	}
	kept := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
	return kept[:min(len(kept), maxOperator)]
}
