package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// settings are what an operator may choose. A setting is declared once, in declare; its flag, its variable, its default,
// its help and its checks follow from that.
type settings struct {
	DatabaseURL     string
	DatabaseURLFile string
	DBMaxConns      int
	Listen          string
	OpsListen       string
	Sealer          string
	TLSCert         string
	TLSKey          string
	Insecure        bool
	OIDCIssuer      string
	OIDCAudience    string
	OIDCClaims      string
	TrustedProxies  []netip.Prefix
	RateLimit       float64
	FailedAuthLimit float64
	LogLevel        string
	LogFormat       string
	ShutdownTimeout time.Duration
	Migrate         string

	declared []*setting
}

// The choices of MIGRATE and LOG_FORMAT.
const (
	migrateAuto  = "auto"
	migrateNever = "never"
	formatAuto   = "auto"
	formatJSON   = "json"
	formatText   = "text"
)

func newSettings() *settings {
	s := &settings{}
	s.declared = []*setting{
		{name: "database-url", arg: "URL", def: "sqlite:data/aikeys.db", parse: text(&s.DatabaseURL),
			usage: "database: sqlite:<path>, or postgres://<user>@<host>/<database>; a URL with a password is taken from the variable or a file only"},
		{name: "database-url-file", arg: "file", parse: text(&s.DatabaseURLFile),
			usage: "file that holds the database's URL, in place of the setting above"},
		{name: "db-max-conns", arg: "number", def: "16", parse: count(&s.DBMaxConns, 1, 1000),
			usage: "connections to Postgres at the most, for each process"},
		{name: "listen", arg: "address", def: "127.0.0.1:8080", parse: address(&s.Listen),
			usage: "host:port of the public API; port 0 takes a free one"},
		{name: "ops-listen", arg: "address", def: "127.0.0.1:8082", parse: address(&s.OpsListen),
			usage: "host:port of /healthz, /readyz and /metrics: plain HTTP without authentication, so keep it off the public network"},
		{name: "sealer", arg: "URL", def: "local:data/keyset.json", parse: text(&s.Sealer),
			usage: "where the key-encryption keys are: local:<path> of a keyset file, which is made on the first start"},
		{name: "tls-cert", arg: "file", parse: text(&s.TLSCert),
			usage: "certificate chain of the public API, in PEM; read again when it changes"},
		{name: "tls-key", arg: "file", parse: text(&s.TLSKey),
			usage: "private key of the certificate, in PEM"},
		{name: "insecure", arg: "", def: "false", parse: yes(&s.Insecure),
			usage: "let the public API listen without TLS beyond this machine: only behind a proxy that terminates TLS"},
		{name: "oidc-issuer", arg: "URL", parse: text(&s.OIDCIssuer),
			usage: "OpenID Connect issuer whose session tokens are accepted; empty accepts API keys only"},
		{name: "oidc-audience", arg: "name", parse: text(&s.OIDCAudience),
			usage: "audience that session tokens must be for; required with an issuer"},
		{name: "oidc-claims", arg: "names", parse: text(&s.OIDCClaims),
			usage: "claims that hold a session's ids; empty means customer=customer_id,user=sub,project=project_id"},
		{name: "trusted-proxies", arg: "networks", parse: networks(&s.TrustedProxies),
			usage: "proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8,192.0.2.1; empty believes none"},
		{name: "rate-limit", arg: "number", def: "200", parse: quantity(&s.RateLimit),
			usage: "requests a second that each user may make, twice as many at once; 0 sets no limit"},
		{name: "failed-auth-limit", arg: "number", def: "60", parse: quantity(&s.FailedAuthLimit),
			usage: "failed authentications a minute that each address may make; 0 sets no limit"},
		{name: "log-level", arg: "level", def: "info", parse: choice(&s.LogLevel, "debug", "info", "warn", "error"),
			usage: "least level to log: debug, info, warn or error; debug logs every read"},
		{name: "log-format", arg: "format", def: formatAuto, parse: choice(&s.LogFormat, formatAuto, formatJSON, formatText),
			usage: "auto, json or text; auto is text on a terminal and JSON elsewhere"},
		{name: "shutdown-timeout", arg: "duration", def: "20s", parse: duration(&s.ShutdownTimeout),
			usage: "how long requests in flight may take to end before they are cut"},
		{name: "migrate", arg: "when", def: migrateAuto, parse: choice(&s.Migrate, migrateAuto, migrateNever),
			usage: "auto brings the database's schema up to date at the start; never waits until \"aikeysd migrate up\" has"},
	}
	for _, d := range s.declared {
		d.text = d.def
		_ = d.parse(d.def) // a test parses every default
	}
	return s
}

// setting is one of the settings. It is a pflag.Value that takes every text: what is wrong is found, all at once, by load.
type setting struct {
	name  string // of the flag
	arg   string // what help calls its value; empty for a switch
	def   string
	usage string
	parse func(text string) error // stores the value, or says what is wanted

	text   string
	origin origin
}

// origin is where a setting's value comes from.
type origin int

const (
	fromDefault origin = iota
	fromVariable
	fromFlag
)

// variablePrefix begins the names of our variables.
const variablePrefix = "AIKEYS_"

func (d *setting) variable() string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(d.name, "-", "_"))
}

// Set implements pflag.Value, for flags.
func (d *setting) Set(text string) error {
	d.text, d.origin = text, fromFlag
	return nil
}

// String implements pflag.Value; help shows it as the default.
func (d *setting) String() string { return d.text }

// Type implements pflag.Value; help shows it as the name of the value.
func (d *setting) Type() string {
	if d.arg == "" {
		return "bool"
	}
	return d.arg
}

// preset gives the setting another default.
func (d *setting) preset(text string) { d.def, d.text = text, text }

// given is the name under which the operator gave the value, or would.
func (d *setting) given() string {
	if d.origin == fromFlag {
		return "--" + d.name
	}
	return d.variable()
}

// addFlags adds the flags of the named settings, of all when none is named.
func (s *settings) addFlags(flags *pflag.FlagSet, names ...string) {
	flags.SortFlags = false
	for _, d := range s.declared {
		if len(names) > 0 && !slices.Contains(names, d.name) {
			continue
		}
		flag := flags.VarPF(d, d.name, "", fmt.Sprintf("%s [%s]", d.usage, d.variable()))
		if d.arg == "" {
			flag.NoOptDefVal = "true"
		}
	}
}

// of returns the declaration of a setting by its flag's name; nil when there is none.
func (s *settings) of(name string) *setting {
	for _, d := range s.declared {
		if d.name == name {
			return d
		}
	}
	return nil
}
