package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

// config has the settings. newConfig declares each setting once; the flag, the variable, the default and the help
// follow from the declaration. load checks the settings that depend on one another.
type config struct {
	*settings.Set

	Listen            string
	ControlPlane      string
	ControlPlaneCA    string
	TokenFile         string
	ClientCert        string
	ClientKey         string
	MaxStale          time.Duration
	CacheSize         int
	Upstreams         map[string]*url.URL
	UpstreamCA        string
	KeyTests          bool
	UpstreamAllow     []netip.Prefix
	AuthSocketUsers   []string
	AuthClientCA      string
	ForwardAuthListen string
	ForwardAuthFile   string
	ExtAuthzListen    string
	AgentListen       string
	OpsListen         string
	StreamGrace       time.Duration
	UpgradeLife       time.Duration
	FailedAuthLimit   float64
	TrustedProxies    []netip.Prefix
	CORSOrigins       []string
	TLSCert           string
	TLSKey            string
	Insecure          bool
	LogLevel          string
	LogFormat         string
	ShutdownTimeout   time.Duration
}

// maxCacheSize bounds the cache, which uses about 1 KiB for each entry.
const maxCacheSize = 10_000_000

const variablePrefix = "AIKEYS_GATEWAY_"

func newConfig() *config {
	s := &config{}
	s.Set = settings.New(settings.Names{Prefix: variablePrefix, Program: "aikeys-gateway"}, []*settings.Setting{
		{Name: "listen", Arg: "address", Default: "127.0.0.1:8090", Parse: settings.Address(&s.Listen),
			Usage: "host:port of the proxy, where callers send their requests; port 0 takes a free one"},
		{Name: "control-plane", Arg: "URL", Default: "http://127.0.0.1:8081", Parse: settings.Text(&s.ControlPlane),
			Usage: "URL of the control plane's data-plane API; plain http only on this machine"},
		{Name: "control-plane-ca", Arg: "file", Parse: settings.Text(&s.ControlPlaneCA),
			Usage: "CA certificates for the control plane, in PEM; empty means those that this machine trusts"},
		{Name: "token-file", Arg: "file", Parse: settings.Text(&s.TokenFile),
			Usage: "file with the credential that \"aikeysd admin dataplane create\" prints; read again when it changes; required, unless there is a client certificate"},
		{Name: "client-cert", Arg: "file", Parse: settings.Text(&s.ClientCert),
			Usage: "client certificate chain, in PEM, as the credential instead of a token; \"aikeysd admin dataplane create --certificate\" registers its name; needs https; read again when it changes"},
		{Name: "client-key", Arg: "file", Parse: settings.Text(&s.ClientKey),
			Usage: "private key of the client certificate, in PEM"},
		{Name: "max-stale", Arg: "duration", Default: "0s", Parse: settings.UpToAnHour(&s.MaxStale),
			Usage: "how long cached keys, even revoked ones, may serve while the control plane does not answer, at most 1h; 0s refuses at once"},
		{Name: "cache-size", Arg: "number", Default: "10000", Parse: settings.Count(&s.CacheSize, 1, maxCacheSize),
			Usage: "number of the control plane's answers to keep in memory"},
		{Name: "upstream", Arg: "provider=URL", Parse: upstreams(&s.Upstreams),
			Usage: "URL to send a provider's requests and keys to instead; separate several by commas, or repeat the flag"},
		{Name: "upstream-ca", Arg: "file", Parse: settings.Text(&s.UpstreamCA),
			Usage: "CA certificates for providers and upstreams, in PEM, in addition to those that this machine trusts"},
		{Name: "upstream-allow", Arg: "networks", Parse: settings.Networks(&s.UpstreamAllow),
			Usage: "networks besides public ones, such as 10.20.0.0/16,127.0.0.1, in which custom providers may be, also without TLS; metadata addresses are refused in any case"},
		{Name: "key-tests", Arg: "", Default: "true", Parse: settings.Switch(&s.KeyTests),
			Usage: "test keys at their providers when the control plane asks for it (AIKEYS_VERIFY=data_plane)"},
		{Name: "forward-auth-listen", Arg: "address", Parse: settings.Optional(settings.AddressOrSocket(&s.ForwardAuthListen)),
			Usage: "unix:<path> or host:port for nginx, Caddy and Traefik; its answers hold providers' keys, so let nobody else reach it; empty turns it off"},
		{Name: "forward-auth-secret-file", Arg: "file", Parse: settings.Text(&s.ForwardAuthFile),
			Usage: "file with the secret that nginx, Caddy or Traefik must send as Agentrouter-Forward-Auth; read again when it changes; required for host:port without auth-client-ca"},
		{Name: "ext-authz-listen", Arg: "address", Parse: settings.Optional(settings.AddressOrSocket(&s.ExtAuthzListen)),
			Usage: "unix:<path> or host:port for Envoy, by gRPC; its answers hold providers' keys, so let nobody else reach it; empty turns it off"},
		{Name: "agent-listen", Arg: "socket", Parse: settings.Optional(socket(&s.AgentListen)),
			Usage: "unix:<path> for programs of this machine that ask which key serves a request; its answers hold providers' keys; empty turns it off"},
		{Name: "auth-socket-users", Arg: "users", Parse: settings.List(&s.AuthSocketUsers),
			Usage: "users, by name or number and separated by commas, whose programs may use the unix sockets of the three listeners above; empty means the gateway's own user"},
		{Name: "auth-client-ca", Arg: "file", Parse: settings.Text(&s.AuthClientCA),
			Usage: "CA certificates for proxies, in PEM; on host:port, forward-auth-listen and ext-authz-listen then require a client certificate, and show the certificate of tls-cert; read again when it changes"},
		{Name: "stream-grace", Arg: "duration", Default: "30s", Parse: settings.Duration(&s.StreamGrace),
			Usage: "how long a streamed answer may continue after its key or its caller was revoked; WebSockets are closed at once"},
		{Name: "upgrade-life", Arg: "duration", Default: "1h", Parse: settings.Duration(&s.UpgradeLife),
			Usage: "how long a WebSocket may last"},
		{Name: "ops-listen", Arg: "address", Default: "127.0.0.1:8092", Parse: settings.Address(&s.OpsListen),
			Usage: "host:port of /healthz, /readyz and /metrics: plain HTTP without authentication, so keep it off the public network"},
		{Name: "failed-auth-limit", Arg: "number", Default: "60", Parse: settings.Quantity(&s.FailedAuthLimit),
			Usage: "requests per minute that each address may send with a wrong credential, project or provider; 0 sets no limit"},
		{Name: "trusted-proxies", Arg: "networks", Parse: settings.Networks(&s.TrustedProxies),
			Usage: "proxies whose X-Forwarded-For to trust, such as 10.0.0.0/8,192.0.2.1; empty trusts none"},
		{Name: "cors-origins", Arg: "origins", Parse: settings.Origins(&s.CORSOrigins),
			Usage: "origins whose pages may call the gateway from a browser, separated by commas, such as https://chat.example.com; empty allows none"},
		{Name: "tls-cert", Arg: "file", Parse: settings.Text(&s.TLSCert),
			Usage: "certificate chain of the proxy, in PEM; read again when it changes"},
		{Name: "tls-key", Arg: "file", Parse: settings.Text(&s.TLSKey),
			Usage: "private key of the certificate, in PEM"},
		{Name: "insecure", Arg: "", Default: "false", Parse: settings.Switch(&s.Insecure),
			Usage: "let keys travel beyond this machine without TLS on any of the connections above; only for a network that you trust"},
		{Name: "log-level", Arg: "level", Default: "info", Parse: settings.Choice(&s.LogLevel, "debug", "info", "warn", "error"),
			Usage: "minimum level to log: debug, info, warn or error"},
		{Name: "log-format", Arg: "format", Default: cli.LogAuto, Parse: settings.Choice(&s.LogFormat, cli.LogAuto, cli.LogJSON, cli.LogText),
			Usage: "auto, json or text; auto is text on a terminal and JSON elsewhere"},
		{Name: "shutdown-timeout", Arg: "duration", Default: "20s", Parse: settings.Duration(&s.ShutdownTimeout),
			Usage: "how long requests in flight may take to end before they are cut"},
	})
	return s
}

// addFlags adds the flags of all settings. The flag of upstreams may be repeated.
func (s *config) addFlags(flags *pflag.FlagSet) {
	s.AddFlags(flags)
	list := flags.Lookup("upstream")
	list.Value = addedTo{s.Of("upstream")}
}

// addedTo is a setting that holds a list. If its flag is repeated, each value is added to the list.
type addedTo struct{ *settings.Setting }

// Set implements pflag.Value.
func (a addedTo) Set(text string) error {
	if a.Origin() == settings.FromFlag {
		text = a.String() + "," + text
	}
	return a.Setting.Set(text)
}

// socket accepts unix:<path>.
func socket(to *string) func(string) error {
	return func(text string) error {
		if !isSocket(text) {
			return errors.New("must be unix:<path>, such as " + agentSocket)
		}
		return settings.AddressOrSocket(to)(text)
	}
}

// upstreams accepts items of the form provider=URL, separated by commas.
func upstreams(to *map[string]*url.URL) func(string) error {
	return func(text string) error {
		found := map[string]*url.URL{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			provider, address, _ := strings.Cut(item, "=")
			target, err := url.Parse(address)
			if err != nil || provider == "" || target.Host == "" || found[provider] != nil {
				return errors.New("must be provider=URL, each provider once, with commas between, such as openai=https://llm.example/v1")
			}
			found[provider] = target
		}
		*to = found
		return nil
	}
}

// load reads the variables and checks all settings. Flags win. The error lists all complaints.
func (s *config) load(environ []string) error {
	return s.Read(environ, s.checkCredential, s.checkProxies, s.checkProxyListeners, s.checkControlPlane, s.checkUpstreams, s.checkListeners, s.checkFiles)
}

// checkCredential requires either a token or a client certificate.
func (s *config) checkCredential() []string {
	token, cert, key := s.Of("token-file"), s.Of("client-cert"), s.Of("client-key")
	target, err := url.Parse(s.ControlPlane)
	switch {
	case s.TokenFile == "" && s.ClientCert == "" && s.ClientKey == "":
		return []string{fmt.Sprintf("%s: is required, or %s and %s; \"aikeysd admin dataplane create\" prints its content",
			token.Given(), cert.Beside(token), key.Beside(token))}
	case s.TokenFile != "" && s.ClientCert+s.ClientKey != "":
		return []string{fmt.Sprintf("%s, %s and %s: give a token or a client certificate, not both", token.Given(), cert.Given(), key.Given())}
	case s.ClientCert != "" && s.ClientKey != "" && err == nil && target.Scheme == "http": // checkControlPlane reports other errors in it
		return []string{fmt.Sprintf("%s: a client certificate needs https, and %s is http", cert.Given(), s.Of("control-plane").Given())}
	}
	return s.Pair("client-cert", "client-key")
}

// checkProxies checks the settings that say which processes are the operator's proxies.
func (s *config) checkProxies() (complaints []string) {
	if ca := s.Of("auth-client-ca"); s.AuthClientCA != "" && (s.TLSCert == "" || s.TLSKey == "") {
		complaints = append(complaints, fmt.Sprintf("%s: needs %s and %s, which the proxies get to see",
			ca.Given(), s.Of("tls-cert").Beside(ca), s.Of("tls-key").Beside(ca)))
	}
	for _, user := range s.AuthSocketUsers {
		if _, err := unixsocket.UserID(user); err != nil {
			complaints = append(complaints, s.Of("auth-socket-users").Given()+": "+err.Error())
		}
	}
	return complaints
}

// checkProxyListeners requires that the two listeners for proxies answer only the operator's proxies.
func (s *config) checkProxyListeners() (complaints []string) {
	complain := func(name, text string) { complaints = append(complaints, s.Of(name).Given()+": "+text) }
	if listen := s.Of("forward-auth-listen"); s.ForwardAuthListen != "" && !isSocket(s.ForwardAuthListen) && s.ForwardAuthFile == "" && s.AuthClientCA == "" {
		complain("forward-auth-listen", fmt.Sprintf("any program that reaches this address could read providers' keys with an API key; "+
			"listen on unix:<path>, or set %s or %s", s.Of("forward-auth-secret-file").Beside(listen), s.Of("auth-client-ca").Beside(listen)))
	}
	for _, name := range []string{"forward-auth-listen", "ext-authz-listen"} {
		if listen := s.Of(name); !s.Insecure && s.AuthClientCA == "" && listen.IsPublic() {
			complain(name, fmt.Sprintf("its answers hold providers' keys in the clear, so it listens on this machine only; "+
				"set %s, or %s=true where nobody but the proxy reaches it", s.Of("auth-client-ca").Beside(listen), s.Of("insecure").Beside(listen)))
		}
	}
	return complaints
}

// isSocket reports whether a listener's address is the path of a unix socket.
func isSocket(address string) bool { return strings.HasPrefix(address, unixsocket.Prefix) }

func (s *config) checkControlPlane() (complaints []string) {
	setting := s.Of("control-plane")
	target, err := url.Parse(s.ControlPlane)
	switch {
	case err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" || target.User != nil:
		complaints = append(complaints, setting.Given()+": must be an http or https URL without user and password, such as https://aikeys-dataplane.example.com")
	case target.Scheme == "http" && !s.Insecure && !netaddr.IsLoopback(target.Hostname()):
		complaints = append(complaints, fmt.Sprintf("%s: beyond this machine, providers' keys would travel in the clear; use https, or set %s=true",
			setting.Given(), s.Of("insecure").Beside(setting)))
	}
	return complaints
}

func (s *config) checkUpstreams() (complaints []string) {
	if err := gateway.CheckUpstreams(s.Upstreams, s.Insecure); err != nil {
		for line := range strings.Lines(err.Error()) {
			complaints = append(complaints, s.Of("upstream").Given()+": "+strings.TrimSpace(line))
		}
	}
	return complaints
}

func (s *config) checkListeners() []string {
	complaints := s.Pair("tls-cert", "tls-key")
	if listen := s.Of("listen"); s.TLSCert == "" && s.TLSKey == "" && !s.Insecure && listen.IsPublic() {
		complaints = append(complaints, fmt.Sprintf(
			"%s: beyond this machine, callers' API keys would travel in the clear; set %s and %s, or %s=true behind a proxy that terminates TLS",
			listen.Given(), s.Of("tls-cert").Beside(listen), s.Of("tls-key").Beside(listen), s.Of("insecure").Beside(listen)))
	}
	return append(complaints, s.Distinct("listen", "forward-auth-listen", "ext-authz-listen", "agent-listen", "ops-listen")...)
}

// checkFiles checks the files that the settings name.
func (s *config) checkFiles() []string {
	return slices.Concat(
		settings.CheckFile(s.Set, "token-file", readCredential), s.CheckCertificate("client-cert", "client-key"),
		settings.CheckFile(s.Set, "control-plane-ca", tlsfiles.ReadPool), settings.CheckFile(s.Set, "upstream-ca", tlsfiles.ReadPool),
		settings.CheckFile(s.Set, "forward-auth-secret-file", readSecret), settings.CheckFile(s.Set, "auth-client-ca", tlsfiles.ReadPool),
		s.CheckCertificate("tls-cert", "tls-key"),
	)
}

// readSecret reads a file that holds one secret. Its error does not quote the secret.
func readSecret(file string) (string, error) {
	text, err := secretfile.Read(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New("the file must hold one word of printable ASCII")
	}
	return secret, nil
}

// credentialPrefix begins the credentials of data planes.
const credentialPrefix = "dp_"

// readCredential reads a file that holds the credential of a data plane.
func readCredential(file string) (string, error) {
	credential, err := readSecret(file)
	if err == nil && !strings.HasPrefix(credential, credentialPrefix) {
		return "", errors.New("the file must hold the credential of a data plane, " + credentialPrefix + "…, as \"aikeysd admin dataplane create\" prints it")
	}
	return credential, err
}
