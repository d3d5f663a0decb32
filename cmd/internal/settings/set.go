package settings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// Names are what a program's settings go by.
type Names struct {
	Prefix string   // begins our variables
	Others []string // longer prefixes, of programs that may share our environment: their variables are not looked at
	List   string   // the command line that lists all settings
}

// Set is the settings of one program.
type Set struct {
	names    Names
	declared []*Setting
}

// New returns the settings that are declared, at their defaults, of which each has to parse.
func New(names Names, declared []*Setting) *Set {
	for _, d := range declared {
		d.prefix = names.Prefix
		d.text = d.Default
		_ = d.Parse(d.Default) // a test of each program parses every default
	}
	return &Set{names, declared}
}

// All returns the settings in the order of their declaration.
func (s *Set) All() []*Setting { return slices.Clone(s.declared) }

// Of returns the setting with a flag's name; nil when there is none.
func (s *Set) Of(name string) *Setting {
	for _, d := range s.declared {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// AddFlags adds the flags of the named settings, of all when none is named.
func (s *Set) AddFlags(flags *pflag.FlagSet, names ...string) {
	flags.SortFlags = false
	for _, d := range s.declared {
		if len(names) > 0 && !slices.Contains(names, d.Name) {
			continue
		}
		flag := flags.VarPF(d, d.Name, "", fmt.Sprintf("%s [%s]", d.Usage, d.Variable()))
		if d.Arg == "" {
			flag.NoOptDefVal = "true"
		}
	}
}

// Read takes the variables, which flags outrank, and stores and checks all values; the program's own checks come last.
// Its error is a cli.UsageError that names all that is wrong at once.
func (s *Set) Read(environ []string, checks ...func() (complaints []string)) error {
	complaints := s.takeVariables(environ)
	for _, d := range s.declared {
		if d.text == "" && d.Default != "" {
			complaints = append(complaints, d.Given()+": must not be empty; leave it out for its default, "+d.Default)
		} else if err := d.Parse(d.text); err != nil {
			complaints = append(complaints, d.Given()+": "+err.Error())
		}
	}
	for _, check := range checks {
		complaints = append(complaints, check()...)
	}
	if len(complaints) > 0 {
		return &cli.UsageError{Complaints: complaints}
	}
	return nil
}

func (s *Set) takeVariables(environ []string) (complaints []string) {
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		if !s.names.ours(variable) {
			continue
		}
		i := slices.IndexFunc(s.declared, func(d *Setting) bool { return d.Variable() == variable })
		switch {
		case i < 0:
			complaints = append(complaints, variable+": no such setting; "+s.suggestion(variable))
		case s.declared[i].origin != FromFlag:
			s.declared[i].text, s.declared[i].origin = text, FromVariable
		}
	}
	return complaints
}
