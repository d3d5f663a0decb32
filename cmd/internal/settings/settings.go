// Package settings reads the settings that an operator gives in flags and variables. Flags win. A program declares each
// setting once, as a Setting; the flag, the variable, the default, the help and the first check follow from the
// declaration. An unknown variable with the program's prefix is an error, and all errors are reported at once. Secrets
// come from files or variables, never from flags, because every user of a machine can see the flags.
package settings

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

// Names are the names that belong to a program's settings.
type Names struct {
	Program string   // its command; "<program> serve --help" lists all settings
	Prefix  string   // of its variables
	Others  []string // longer prefixes, of programs that may share the environment: their variables are ignored
}

// serviceLink matches the variables that Kubernetes sets in every pod for a Service with the name of the prefix, such
// as aikeys for AIKEYS_ (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables). It
// matches the names without the prefix. These variables are ignored. The variables of a Service with a longer name look
// like mistyped settings.
var serviceLink = regexp.MustCompile(`^(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// owns reports whether a variable is one of the program's settings, or meant to be.
func (n Names) owns(variable string) bool {
	rest, ok := strings.CutPrefix(variable, n.Prefix)
	isOther := func(prefix string) bool { return strings.HasPrefix(variable, prefix) }
	return ok && !serviceLink.MatchString(rest) && !slices.ContainsFunc(n.Others, isOther)
}

// Set is the settings of one program.
type Set struct {
	names    Names
	declared []*Setting
}

// New returns the declared settings with their defaults, each of which must parse.
func New(names Names, declared []*Setting) *Set {
	for _, d := range declared {
		d.names = names
		d.text = d.Default
		_ = d.Parse(d.Default) // a test of each program parses every default
	}
	return &Set{names, declared}
}

// All returns the settings in the order of their declaration.
func (s *Set) All() []*Setting { return slices.Clone(s.declared) }

// Of returns the setting with a flag's name, or nil.
func (s *Set) Of(name string) *Setting {
	for _, d := range s.declared {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// AddFlags adds the flags of the named settings, or of all settings if no name is given.
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

// Read reads the variables, then stores and checks all values. The program's own checks come last. The error is a
// cli.UsageError with all complaints.
func (s *Set) Read(environ []string, checks ...func() (complaints []string)) error {
	complaints := s.readVariables(environ)
	for _, d := range s.declared {
		if d.text == "" && d.Default != "" {
			complaints = append(complaints, d.Given()+": must not be empty; leave it out for its default, "+d.Default)
		} else if err := checkText(d.text); err != nil {
			complaints = append(complaints, d.Given()+": "+err.Error())
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

// checkText refuses characters that no setting contains. A file of variables with Windows line ends leaves a carriage
// return in the value, and some programs that read such files leave quotes in it. The error does not repeat the text.
func checkText(text string) error {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("has a control character, such as a line end or a carriage return; write it without")
	}
	if n := len(text); n > 1 && text[0] == text[n-1] && (text[0] == '"' || text[0] == '\'') {
		return errors.New("is in quotes; write it without")
	}
	return nil
}

func (s *Set) readVariables(environ []string) (complaints []string) {
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		if !s.names.owns(variable) {
			continue
		}
		i := slices.IndexFunc(s.declared, func(d *Setting) bool { return d.Variable() == variable })
		switch {
		case i < 0:
			complaints = append(complaints, variable+": no such setting; "+s.suggest(variable))
		case s.declared[i].origin != FromFlag:
			s.declared[i].text, s.declared[i].origin = text, FromVariable
		}
	}
	return complaints
}

// maxSuggestions is how many names a hint may have; more would not help.
const maxSuggestions = 3

// suggest returns a hint for an unknown variable: similar names, or the command that lists all. It finds similar names
// as cobra does for mistyped commands.
func (s *Set) suggest(variable string) string {
	names := &cobra.Command{SuggestionsMinimumDistance: 2} // two letters in each other's place
	for _, d := range s.declared {
		names.AddCommand(&cobra.Command{Use: d.Variable(), Run: func(*cobra.Command, []string) {}})
	}
	similar := names.SuggestionsFor(variable)
	if len(similar) == 0 || len(similar) > maxSuggestions {
		return s.names.Program + " serve --help lists them all"
	}
	return "did you mean " + strings.Join(similar, " or ") + "?"
}

// Pair checks that two settings are given together or not at all.
func (s *Set) Pair(a, b string) (complaints []string) {
	first, second := s.Of(a), s.Of(b)
	if (first.text == "") != (second.text == "") {
		complaints = []string{fmt.Sprintf("%s and %s: give both or none", first.Given(), second.Given())}
	}
	return complaints
}

// CheckFile checks that read accepts the file that a setting names. An empty setting names none.
func CheckFile[T any](s *Set, name string, read func(file string) (T, error)) (complaints []string) {
	d := s.Of(name)
	if d.text == "" {
		return nil
	}
	if _, err := read(d.text); err != nil {
		complaints = []string{d.Given() + ": " + err.Error()}
	}
	return complaints
}

// CheckCertificate checks that the files of a certificate and its key belong together, if both settings are given.
func (s *Set) CheckCertificate(cert, key string) (complaints []string) {
	first, second := s.Of(cert), s.Of(key)
	if first.text == "" || second.text == "" {
		return nil
	}
	if _, err := tlsfiles.ReadPair(first.text, second.text); err != nil {
		complaints = []string{fmt.Sprintf("%s and %s: %s", first.Given(), second.Given(), err)}
	}
	return complaints
}

// Distinct checks that the addresses of the named settings differ. Any number of them may be empty or have port 0.
func (s *Set) Distinct(names ...string) (complaints []string) {
	taken := map[string]*Setting{}
	for _, name := range names {
		d := s.Of(name)
		if other := taken[d.text]; other != nil {
			complaints = append(complaints, fmt.Sprintf("%s and %s: must differ", other.Given(), d.Given()))
		} else if d.text != "" && !strings.HasSuffix(d.text, ":0") {
			taken[d.text] = d
		}
	}
	return complaints
}

// fileSuffix ends the name of a setting that names a file. The file holds the value of another setting, which may be a
// secret.
const fileSuffix = "-file"

// OrFile sets *to to the content of a file if the setting <name>-file names one. It returns the setting that the value
// comes from. The error names the settings that are wrong.
func (s *Set) OrFile(name string, to *string) (*Setting, error) {
	value, file := s.Of(name), s.Of(name+fileSuffix)
	if file.text == "" {
		return value, nil
	}
	if value.origin != FromDefault {
		return nil, fmt.Errorf("%s and %s: give one of them, not both", value.Given(), file.Given())
	}
	content, err := secretfile.Read(file.text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file.Given(), err)
	}
	text := strings.TrimSpace(strings.TrimPrefix(string(content), "\ufeff")) // some editors write a byte order mark
	if err := checkText(text); err != nil {
		return nil, fmt.Errorf("%s: the file's content %w", file.Given(), err)
	}
	*to = text
	return file, nil
}

// Setting is one setting. It is a pflag.Value that accepts every text, so that Read can report all errors at once.
type Setting struct {
	Name    string // of the flag
	Arg     string // what help calls the value; empty for a switch
	Default string
	Usage   string
	Parse   func(text string) error // stores the value, or returns an error that says what is expected

	names  Names
	text   string
	origin Origin
}

// Origin is where a setting's value comes from.
type Origin int

// The origins. Each wins over those before it.
const (
	FromDefault Origin = iota
	FromVariable
	FromFlag
)

// Variable returns the name of the setting's variable.
func (d *Setting) Variable() string {
	return d.names.Prefix + strings.ToUpper(strings.ReplaceAll(d.Name, "-", "_"))
}

// Origin returns where the value comes from.
func (d *Setting) Origin() Origin { return d.origin }

// Given returns the name by which the operator gave the value: the flag, or else the variable.
func (d *Setting) Given() string {
	if d.origin == FromFlag {
		return "--" + d.Name
	}
	return d.Variable()
}

// Beside returns the name of the setting's flag or of its variable, whichever the operator has used for other. A
// message about both settings then names both in the same form.
func (d *Setting) Beside(other *Setting) string {
	if other.origin == FromFlag {
		return "--" + d.Name
	}
	return d.Variable()
}

// Preset changes the default.
func (d *Setting) Preset(text string) { d.Default, d.text = text, text }

// IsPublic reports whether other machines can reach the address that the setting holds. It returns false if the address
// is invalid.
func (d *Setting) IsPublic() bool {
	return d.text != "" && d.Parse(d.text) == nil && !netaddr.IsLoopbackAddress(d.text) && !strings.HasPrefix(d.text, unixsocket.Prefix)
}

// Listen binds the TCP address that the setting holds. The error tells the operator what to do.
func (d *Setting) Listen(ctx context.Context) (net.Listener, error) {
	listener, err := lifecycle.Listen(ctx, d.text)
	return listener, d.ListenError(err)
}

// ListenError adds advice for the operator to an error of binding the setting's address.
func (d *Setting) ListenError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, lifecycle.ErrAddressTaken):
		return fmt.Errorf("%s is taken, perhaps by another %s: stop that program, or choose another address with --%s or %s",
			d.text, d.names.Program, d.Name, d.Variable())
	}
	return fmt.Errorf("%s: %w", d.Given(), err)
}

// Set implements pflag.Value.
func (d *Setting) Set(text string) error {
	d.text, d.origin = text, FromFlag
	return nil
}

// String implements pflag.Value. It returns the value as it was given; help shows it as the default.
func (d *Setting) String() string { return d.text }

// Type implements pflag.Value. Help shows it as the name of the value.
func (d *Setting) Type() string {
	if d.Arg == "" {
		return "bool"
	}
	return d.Arg
}
