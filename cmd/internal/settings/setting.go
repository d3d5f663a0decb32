package settings

import "strings"

// Setting is one of the settings. It is a pflag.Value that takes every text: what is wrong is found, all at once, by Read.
type Setting struct {
	Name    string // of the flag
	Arg     string // what help calls its value; empty for a switch
	Default string
	Usage   string
	Parse   func(text string) error // stores the value, or says what is wanted

	prefix string
	text   string
	origin Origin
}

// Origin is where a setting's value comes from.
type Origin int

// The origins, each of which outranks those before it.
const (
	FromDefault Origin = iota
	FromVariable
	FromFlag
)

// Variable is the name of the setting's variable.
func (d *Setting) Variable() string {
	return d.prefix + strings.ToUpper(strings.ReplaceAll(d.Name, "-", "_"))
}

// Origin is where the value comes from.
func (d *Setting) Origin() Origin { return d.origin }

// Given is the name under which the operator gave the value, or would.
func (d *Setting) Given() string {
	if d.origin == FromFlag {
		return "--" + d.Name
	}
	return d.Variable()
}

// Preset gives the setting another default.
func (d *Setting) Preset(text string) { d.Default, d.text = text, text }

// Set implements pflag.Value, for flags.
func (d *Setting) Set(text string) error {
	d.text, d.origin = text, FromFlag
	return nil
}

// String implements pflag.Value; it is the value as it was given. Help shows it as the default.
func (d *Setting) String() string { return d.text }

// Type implements pflag.Value; help shows it as the name of the value.
func (d *Setting) Type() string {
	if d.Arg == "" {
		return "bool"
	}
	return d.Arg
}
