package main

import (
	"net/netip"
	"time"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
)

// config is what an operator may choose. Each setting is declared once, in newConfig; its flag, its variable, its default
// and its help follow from that. What the settings mean together is checked by load.
type config struct {
	*settings.Set

	DatabaseURL     string
	DBMaxConns      int
	Listen          string
	DataplaneListen string
	OpsListen       string
	Sealer          string
	SealerOld       []string
	SealerCert      string
	SealerKey       string
	SealerCA        string
	TLSCert         string
	TLSKey          string
	DataplaneCA     string
	Insecure        bool
	OIDCIssuer      string
	OIDCAudience    string
	OIDCClaims      string
	TrustedProxies  []netip.Prefix
	RateLimit       float64
	FailedAuthLimit float64
	FetchRetention  time.Duration
	MaxStaleLimit   time.Duration
	Downloads       string
	LogLevel        string
	LogFormat       string
	ShutdownTimeout time.Duration
	Migrate         string
}

// The choices of MIGRATE.
const (
	migrateAuto  = "auto"
	migrateNever = "never"
)

// The prefixes of our variables and of the gateway's, which may stand in one file.
const (
	variablePrefix = "AIKEYS_"
	gatewayPrefix  = "AIKEYS_GATEWAY_"
)

func newConfig() *config {
	s := &config{}
	names := settings.Names{Prefix: variablePrefix, Others: []string{gatewayPrefix}, List: "aikeysd serve --help"}
	s.Set = settings.New(names, []*settings.Setting{
		{Name: "database-url", Arg: "URL", Default: "sqlite:data/aikeys.db", Parse: settings.Text(&s.DatabaseURL),
			Usage: "database: sqlite:<path>, or postgres://<user>@<host>/<database>; a URL with a password is taken from the variable or a file only"},
		{Name: "database-url-file", Arg: "file", Parse: settings.File,
			Usage: "file that holds the database's URL, in place of the setting above"},
		{Name: "db-max-conns", Arg: "number", Default: "16", Parse: settings.Count(&s.DBMaxConns, 1, 1000),
			Usage: "connections to Postgres at the most, for each process"},
		{Name: "listen", Arg: "address", Default: "127.0.0.1:8080", Parse: settings.Address(&s.Listen),
			Usage: "host:port of the public API; port 0 takes a free one"},
		{Name: "dataplane-listen", Arg: "address", Default: "127.0.0.1:8081", Parse: settings.Address(&s.DataplaneListen),
			Usage: "host:port of the data-plane API: gateways only, never public; its answers hold providers' keys"},
		{Name: "ops-listen", Arg: "address", Default: "127.0.0.1:8082", Parse: settings.Address(&s.OpsListen),
			Usage: "host:port of /healthz, /readyz and /metrics: plain HTTP without authentication, so keep it off the public network"},
		{Name: "sealer", Arg: "URL", Default: "local:data/keyset.json", Parse: settings.Text(&s.Sealer),
			Usage: "where the key-encryption keys are: local:<path> of a keyset file, which is made on the first start; or in secrets-svc, secrets+unix:<path> of its socket or secrets+https://<host>:<port>"},
		{Name: "sealer-old", Arg: "URLs", Parse: settings.List(&s.SealerOld),
			Usage: "sealers of before, with commas between, which still open what \"aikeysd rewrap\" has not moved yet; nothing is sealed with them"},
		{Name: "sealer-cert", Arg: "file", Parse: settings.Text(&s.SealerCert),
			Usage: "certificate chain that tells secrets-svc who calls, in PEM; for secrets+https, and read again when it changes, like the next two"},
		{Name: "sealer-key", Arg: "file", Parse: settings.Text(&s.SealerKey),
			Usage: "private key of that certificate, in PEM"},
		{Name: "sealer-ca", Arg: "file", Parse: settings.Text(&s.SealerCA),
			Usage: "certificates of the authorities that secrets-svc's own certificate may be signed by, in PEM"},
		{Name: "tls-cert", Arg: "file", Parse: settings.Text(&s.TLSCert),
			Usage: "certificate chain of the public and the data-plane API, in PEM; read again when it changes"},
		{Name: "tls-key", Arg: "file", Parse: settings.Text(&s.TLSKey),
			Usage: "private key of the certificate, in PEM"},
		{Name: "dataplane-client-ca", Arg: "file", Parse: settings.Text(&s.DataplaneCA),
			Usage: "certificates of the authorities that may vouch for data planes, in PEM; the data-plane API then takes client certificates beside tokens; read again when it changes"},
		{Name: "insecure", Arg: "", Default: "false", Parse: settings.Switch(&s.Insecure),
			Usage: "let the public and the data-plane API listen without TLS beyond this machine: only behind a proxy that terminates TLS"},
		{Name: "oidc-issuer", Arg: "URL", Parse: settings.Text(&s.OIDCIssuer),
			Usage: "OpenID Connect issuer whose session tokens are accepted; empty accepts API keys only"},
		{Name: "oidc-audience", Arg: "name", Parse: settings.Text(&s.OIDCAudience),
			Usage: "audience that session tokens must be for; required with an issuer"},
		{Name: "oidc-claims", Arg: "names", Parse: settings.Text(&s.OIDCClaims),
			Usage: "claims that hold a session's ids; empty means customer=customer_id,user=sub,project=project_id"},
		{Name: "trusted-proxies", Arg: "networks", Parse: settings.Networks(&s.TrustedProxies),
			Usage: "proxies whose X-Forwarded-For, -Proto and -Host are believed, such as 10.0.0.0/8,192.0.2.1; empty believes none"},
		{Name: "rate-limit", Arg: "number", Default: "200", Parse: settings.Quantity(&s.RateLimit),
			Usage: "requests a second that each user may make, twice as many at once; 0 sets no limit"},
		{Name: "failed-auth-limit", Arg: "number", Default: "60", Parse: settings.Quantity(&s.FailedAuthLimit),
			Usage: "failed authentications a minute that each address may make; 0 sets no limit"},
		{Name: "fetch-retention", Arg: "lifetime", Default: "30d", Parse: retention(&s.FetchRetention),
			Usage: "how long records of fetches are kept, in hours or days, such as 720h or 30d; 0 keeps them for good"},
		{Name: "max-stale-limit", Arg: "duration", Default: "5m", Parse: stalest(&s.MaxStaleLimit),
			Usage: "longest --max-stale that a gateway may have, 1h at the most: receipts of revocations wait for it; streams that declare more are refused, and 0s allows none"},
		{Name: "downloads", Arg: "folder", Parse: settings.Text(&s.Downloads),
			Usage: "folder with the packed SDKs that the page /docs/sdks offers, as \"make dist\" leaves them; read at the start; empty offers none"},
		{Name: "log-level", Arg: "level", Default: "info", Parse: settings.Choice(&s.LogLevel, "debug", "info", "warn", "error"),
			Usage: "least level to log: debug, info, warn or error; debug logs every read"},
		{Name: "log-format", Arg: "format", Default: cli.LogAuto, Parse: settings.Choice(&s.LogFormat, cli.LogAuto, cli.LogJSON, cli.LogText),
			Usage: "auto, json or text; auto is text on a terminal and JSON elsewhere"},
		{Name: "shutdown-timeout", Arg: "duration", Default: "20s", Parse: settings.Duration(&s.ShutdownTimeout),
			Usage: "how long requests in flight may take to end before they are cut"},
		{Name: "migrate", Arg: "when", Default: migrateAuto, Parse: settings.Choice(&s.Migrate, migrateAuto, migrateNever),
			Usage: "auto brings the database's schema up to date at the start; never waits until \"aikeysd migrate up\" has"},
	})
	return s
}
