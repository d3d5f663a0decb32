package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/models/database"
)

// config has the settings. newConfig declares each setting once; the flag, the variable, the default and the help
// follow from the declaration. load checks the settings that depend on one another.
type config struct {
	*settings.Set

	mock *mock // nil unless the service is a mock; no setting makes it one

	DatabaseURL       string
	DatabaseDirectURL string
	DBMaxConns        int
	Listen            string
	DataplaneListen   string
	OpsListen         string
	Sealer            string
	SealerOld         []string
	SealerCache       time.Duration
	SealerCert        string
	SealerKey         string
	SealerCA          string
	TLSCert           string
	TLSKey            string
	DataplaneCA       string
	Insecure          bool
	OIDCIssuer        string
	OIDCAudience      string
	OIDCClaims        string
	OIDCParties       []string
	OIDCMaxLifetime   time.Duration
	OIDCClientID      string
	OIDCScopes        []string
	TrustedProxies    []netip.Prefix
	CORSOrigins       []string
	RateLimit         float64
	FailedAuthLimit   float64
	Quotas            aikeys.Quotas
	FetchRetention    time.Duration
	UsageRetention    time.Duration
	MaxStaleLimit     time.Duration
	Downloads         string
	LogLevel          string
	LogFormat         string
	ShutdownTimeout   time.Duration
	Verify            string
	CustomProviders   string
	AWSRoles          string
	Migrate           string
	Role              string
}

// maxQuota is the largest quota of keys. A register counts the active keys up to the quota.
const maxQuota = 100_000

// The choices of settings.
const (
	customByOperator, customByOwner, customOff = "operator", "owner", "off"

	rolesOff, rolesAssume = "off", "assume"

	verifyControlPlane, verifyDataPlane, verifyOff = "control_plane", "data_plane", "off"

	migrateAuto, migrateNever = "auto", "never"

	roleAll, rolePublic, roleDataplane = "all", "public", "dataplane"
)

// The prefixes of our variables and of the gateway's. Both may be in one environment file.
const (
	variablePrefix = "AIKEYS_"
	gatewayPrefix  = "AIKEYS_GATEWAY_"
)

func newConfig() *config {
	s := &config{}
	names := settings.Names{Prefix: variablePrefix, Others: []string{gatewayPrefix}, Program: "aikeysd"}
	s.Set = settings.New(names, slices.Concat([]*settings.Setting{
		{Name: "database-url", Arg: "URL", Default: "sqlite:data/aikeys.db", Parse: settings.Text(&s.DatabaseURL),
			Usage: "database: sqlite:<path>, or postgres://<user>@<host>/<name>; a URL with a password is taken from the variable or a file only"},
		{Name: "database-url-file", Arg: "file", Parse: settings.File,
			Usage: "file that holds the database's URL, in place of the setting above"},
		{Name: "database-direct-url", Arg: "URL", Parse: settings.Text(&s.DatabaseDirectURL),
			Usage: "URL of the Postgres server itself if the URL above names a pooler such as PgBouncer; notifications and migrations need a session of their own"},
		{Name: "database-direct-url-file", Arg: "file", Parse: settings.File,
			Usage: "file that holds that URL, in place of the setting above"},
		{Name: "db-max-conns", Arg: "number", Default: "16", Parse: settings.Count(&s.DBMaxConns, 1, 1000),
			Usage: "maximum number of connections to Postgres, for each process"},
		{Name: "listen", Arg: "address", Default: "127.0.0.1:8080", Parse: settings.Address(&s.Listen),
			Usage: "host:port of the public API; port 0 takes a free one"},
		{Name: "dataplane-listen", Arg: "address", Default: "127.0.0.1:8081", Parse: settings.Address(&s.DataplaneListen),
			Usage: "host:port of the data-plane API: gateways only, never public; its answers hold providers' keys"},
		{Name: "ops-listen", Arg: "address", Default: "127.0.0.1:8082", Parse: settings.Address(&s.OpsListen),
			Usage: "host:port of /healthz, /readyz and /metrics: plain HTTP without authentication, so keep it off the public network"},
		{Name: "sealer", Arg: "URL", Default: "local:data/keyset.json", Parse: settings.Text(&s.Sealer),
			Usage: "where the key-encryption keys are: local:<path> of a keyset file, which is made on the first start; in secrets-svc, secrets+unix:<path> of its socket or secrets+https://<host>:<port>; or in a key management service, vault+https:, awskms: or gcpkms:, as docs/kms.md shows"},
		{Name: "sealer-old", Arg: "URLs", Parse: settings.List(&s.SealerOld),
			Usage: "previous sealers, separated by commas; they open what \"aikeysd rewrap\" has not moved yet, and seal nothing"},
		{Name: "sealer-cache", Arg: "duration", Default: "0s", Parse: settings.UpToAnHour(&s.SealerCache),
			Usage: "how long the data key of an opened secret stays in memory, which saves calls to the key management service; at most 1h; 0s keeps none"},
		{Name: "sealer-cert", Arg: "file", Parse: settings.Text(&s.SealerCert),
			Usage: "client certificate chain for secrets-svc, in PEM; for secrets+https; read again when it changes, like the next two"},
		{Name: "sealer-key", Arg: "file", Parse: settings.Text(&s.SealerKey),
			Usage: "private key of that certificate, in PEM"},
		{Name: "sealer-ca", Arg: "file", Parse: settings.Text(&s.SealerCA),
			Usage: "CA certificates for the certificate of secrets-svc, in PEM"},
		{Name: "tls-cert", Arg: "file", Parse: settings.Text(&s.TLSCert),
			Usage: "certificate chain of the public and the data-plane API, in PEM; read again when it changes"},
		{Name: "tls-key", Arg: "file", Parse: settings.Text(&s.TLSKey),
			Usage: "private key of the certificate, in PEM"},
		{Name: "dataplane-client-ca", Arg: "file", Parse: settings.Text(&s.DataplaneCA),
			Usage: "CA certificates for data planes, in PEM; the data-plane API then accepts client certificates as well as tokens; read again when it changes"},
		{Name: "insecure", Arg: "", Default: "false", Parse: settings.Switch(&s.Insecure),
			Usage: "allow connections beyond this machine without TLS: to the public and the data-plane API, which then belong behind a proxy that terminates TLS, and to Postgres"},
	}, oidcSettings(s), []*settings.Setting{
		{Name: "trusted-proxies", Arg: "networks", Parse: settings.Networks(&s.TrustedProxies),
			Usage: "proxies whose X-Forwarded-For, -Proto and -Host to trust, such as 10.0.0.0/8,192.0.2.1; empty trusts none"},
		{Name: "cors-origins", Arg: "origins", Parse: settings.Origins(&s.CORSOrigins),
			Usage: "origins whose pages may call the public API from a browser, separated by commas, such as https://keys.example.com; empty allows none"},
		{Name: "rate-limit", Arg: "number", Default: "200", Parse: settings.Quantity(&s.RateLimit),
			Usage: "requests a second that each user may make; up to twice as many at once; 0 sets no limit"},
		{Name: "failed-auth-limit", Arg: "number", Default: "60", Parse: settings.Quantity(&s.FailedAuthLimit),
			Usage: "failed authentications a minute that each address may make; 0 sets no limit"},
		{Name: "max-project-keys", Arg: "number", Default: "10000", Parse: settings.Count(&s.Quotas.Project, 0, maxQuota),
			Usage: "active project-level keys that a project may have; 0 sets no limit"},
		{Name: "max-user-keys", Arg: "number", Default: "1000", Parse: settings.Count(&s.Quotas.User, 0, maxQuota),
			Usage: "active keys of their own that a user may have in a project; 0 sets no limit"},
		{Name: "fetch-retention", Arg: "lifetime", Default: "30d", Parse: retention(&s.FetchRetention),
			Usage: "how long records of fetches are kept, in hours or days, such as 720h or 30d; 0 keeps them forever"},
		{Name: "usage-retention", Arg: "lifetime", Default: "90d", Parse: retention(&s.UsageRetention),
			Usage: "how long the usage of keys is kept, in hours or days, such as 2160h or 90d; 0 keeps it forever"},
		{Name: "max-stale-limit", Arg: "duration", Default: "5m", Parse: settings.UpToAnHour(&s.MaxStaleLimit),
			Usage: "longest --max-stale that a gateway may declare, at most 1h; longer ones are refused, and receipts of revocations wait that long; 0s allows none"},
		{Name: "custom-providers", Arg: "who", Default: customByOperator, Parse: settings.Choice(&s.CustomProviders, customByOperator, customByOwner, customOff),
			Usage: "who may add custom providers: operator, with \"aikeysd admin provider\"; owner, also the owners of a project for it; off accepts no keys for them, and serves none"},
		{Name: "aws-roles", Arg: "how", Default: rolesOff, Parse: settings.Choice(&s.AWSRoles, rolesOff, rolesAssume),
			Usage: "assume accepts Bedrock keys that name a role, which this process assumes with its own AWS identity, found as AWS's tools find it; off accepts none"},
		{Name: "verify", Arg: "where", Default: verifyControlPlane, Parse: settings.Choice(&s.Verify, verifyControlPlane, verifyDataPlane, verifyOff),
			Usage: "control_plane: this process tests a secret at its provider when a request asks for it, or when the provider begins to refuse it, and uses HTTPS_PROXY and NO_PROXY; data_plane: a connected data plane makes the tests, for all replicas alike; off: no tests"},
		{Name: "downloads", Arg: "folder", Parse: settings.Text(&s.Downloads),
			Usage: "folder with the packed SDKs and programs that the pages /docs/sdks and /docs/downloads offer, as \"make dist\" writes them; read at the start; empty offers none"},
		{Name: "log-level", Arg: "level", Default: "info", Parse: settings.Choice(&s.LogLevel, "debug", "info", "warn", "error"),
			Usage: "minimum level to log: debug, info, warn or error; debug logs every read"},
		{Name: "log-format", Arg: "format", Default: cli.LogAuto, Parse: settings.Choice(&s.LogFormat, cli.LogAuto, cli.LogJSON, cli.LogText),
			Usage: "auto, json or text; auto is text on a terminal and JSON elsewhere"},
		{Name: "shutdown-timeout", Arg: "duration", Default: "20s", Parse: settings.Duration(&s.ShutdownTimeout),
			Usage: "how long requests in flight may take to end before they are cut"},
		{Name: "migrate", Arg: "when", Default: migrateAuto, Parse: settings.Choice(&s.Migrate, migrateAuto, migrateNever),
			Usage: "auto updates the database's schema at the start; never waits until \"aikeysd migrate up\" has done it"},
		{Name: "role", Arg: "name", Default: roleAll, Parse: settings.Choice(&s.Role, roleAll, rolePublic, roleDataplane),
			Usage: "all serves both APIs; public serves the public API alone, opens no secret and never migrates; dataplane serves the data-plane API alone, and seals no secret"},
	}))
	return s
}

// oidcSettings returns the settings of session tokens.
func oidcSettings(s *config) []*settings.Setting {
	return []*settings.Setting{
		{Name: "oidc-issuer", Arg: "URL", Parse: settings.Text(&s.OIDCIssuer),
			Usage: "OpenID Connect issuer whose session tokens are accepted; empty accepts API keys only"},
		{Name: "oidc-audience", Arg: "name", Parse: settings.Text(&s.OIDCAudience),
			Usage: "audience that session tokens must be for; required with an issuer"},
		{Name: "oidc-claims", Arg: "names", Parse: settings.Text(&s.OIDCClaims),
			Usage: "claims that hold a session's ids; empty means customer=customer_id,user=sub,project=project_id"},
		{Name: "oidc-authorized-parties", Arg: "names", Parse: settings.List(&s.OIDCParties),
			Usage: "clients that the claim azp of a session token may name, separated by commas; empty means the audience and the client below"},
		{Name: "oidc-max-lifetime", Arg: "duration", Default: "24h", Parse: settings.Duration(&s.OIDCMaxLifetime),
			Usage: "longest life of a session token, from its iat or, without one, from now; longer ones are refused"},
		{Name: "oidc-client-id", Arg: "name", Parse: settings.Text(&s.OIDCClientID),
			Usage: "public client at the issuer with which people sign in; if it is the audience, their ID tokens are session tokens, otherwise their access tokens; empty offers no sign-in"},
		{Name: "oidc-scopes", Arg: "names", Default: "openid,offline_access", Parse: settings.List(&s.OIDCScopes),
			Usage: "scopes to request when people sign in, separated by commas; offline_access requests a refresh token"},
	}
}

// load reads the variables and checks all settings. Flags win. The error lists all complaints.
func (s *config) load(environ []string) error {
	return s.Read(environ, s.checkDatabase, s.checkSealer, s.checkListeners, s.checkOIDC)
}

// loadToServe does what load does, and also checks the files that only the server needs. load does not read those
// files, because operators may lack the right to read them.
func (s *config) loadToServe(environ []string) error {
	return s.Read(environ, s.checkDatabase, s.checkSealer, s.checkListeners, s.checkOIDC, s.checkCertificates, s.checkSealerFiles)
}

func (s *config) checkDatabase() (complaints []string) {
	given, err := s.OrFile("database-url", &s.DatabaseURL)
	if err != nil {
		return []string{err.Error()}
	}
	direct, err := s.OrFile("database-direct-url", &s.DatabaseDirectURL)
	if err != nil {
		return []string{err.Error()}
	}
	if complaints := append(s.passwordInFlag("database-url", s.DatabaseURL), s.passwordInFlag("database-direct-url", s.DatabaseDirectURL)...); len(complaints) > 0 {
		return complaints
	}
	scheme, path, _ := strings.Cut(s.DatabaseURL, ":")
	switch {
	case isSQLite(s.DatabaseURL) && path != "" && path != ":memory:":
		if s.DatabaseDirectURL != "" {
			return []string{direct.Given() + ": is for Postgres behind a pooler, and the database is SQLite"}
		}
		return nil
	case scheme != "postgres" && scheme != "postgresql":
		return []string{given.Given() + ": must be sqlite:<path> or postgres://<user>@<host>/<database>"}
	}
	store, err := database.Open(s.DatabaseURL, s.storeOptions()) // checks the URLs, and connects to nothing
	if err == nil {
		err = store.Close()
	}
	if err != nil {
		return []string{given.Given() + ": " + err.Error()}
	}
	return nil
}

// passwordInFlag returns a complaint if a flag's URL may have a password.
func (s *config) passwordInFlag(name, databaseURL string) []string {
	if s.Of(name).Origin() != settings.FromFlag || isSQLite(databaseURL) || !mayHoldPassword(databaseURL) {
		return nil
	}
	return []string{"--" + name + ": every user of this machine can see it in the process list, so it may hold no password; use " +
		s.Of(name).Variable() + ", or a file and " + s.Of(name+"-file").Variable()}
}

// mayHoldPassword reports whether a database URL may have a password. It is true for a URL that can't be parsed.
func mayHoldPassword(databaseURL string) bool {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return true
	}
	_, inUser := u.User.Password()
	return inUser || u.Query().Has("password") || u.Query().Has("sslpassword")
}

func (s *config) checkListeners() []string {
	cert, key := s.Of("tls-cert"), s.Of("tls-key")
	hasTLS := s.TLSCert != "" || s.TLSKey != ""
	complaints := s.Pair("tls-cert", "tls-key")
	if s.DataplaneCA != "" && !hasTLS {
		complaints = append(complaints, fmt.Sprintf("%s: client certificates need TLS; set %s and %s",
			s.Of("dataplane-client-ca").Given(), cert.Beside(s.Of("dataplane-client-ca")), key.Beside(s.Of("dataplane-client-ca"))))
	}
	for _, name := range s.apiListenSettings() {
		if listen := s.Of(name); !hasTLS && !s.Insecure && listen.IsPublic() {
			complaints = append(complaints, fmt.Sprintf(
				"%s: beyond this machine, API keys and secrets would travel in the clear; set %s and %s, or %s=true behind a proxy that terminates TLS",
				listen.Given(), cert.Beside(listen), key.Beside(listen), s.Of("insecure").Beside(listen)))
		}
	}
	return append(complaints, s.Distinct(append(s.apiListenSettings(), "ops-listen")...)...)
}

// servesPublic reports whether this process serves the public API, and so seals secrets.
func (s *config) servesPublic() bool { return s.Role != roleDataplane }

// servesDataPlanes reports whether this process serves the data-plane API, and so opens secrets.
func (s *config) servesDataPlanes() bool { return s.Role != rolePublic }

// keysetUse is what this process uses the sealer for.
func (s *config) keysetUse() keysetcheck.Use {
	switch s.Role {
	case rolePublic:
		return keysetcheck.SealOnly
	case roleDataplane:
		return keysetcheck.OpenOnly
	}
	return keysetcheck.SealAndOpen
}

// apiListenSettings names the settings of the addresses of the APIs that this process serves.
func (s *config) apiListenSettings() (names []string) {
	if s.servesPublic() {
		names = append(names, "listen")
	}
	if s.servesDataPlanes() {
		names = append(names, "dataplane-listen")
	}
	return names
}

// listenSettings names the settings of all addresses.
func listenSettings() []string { return []string{"listen", "dataplane-listen", "ops-listen"} }

func (s *config) checkCertificates() []string {
	return append(s.CheckCertificate("tls-cert", "tls-key"), settings.CheckFile(s.Set, "dataplane-client-ca", tlsfiles.ReadPool)...)
}

func (s *config) checkOIDC() []string {
	issuer := s.Of("oidc-issuer")
	if s.OIDCIssuer == "" {
		if s.OIDCAudience != "" || s.OIDCClaims != "" || len(s.OIDCParties) > 0 || s.OIDCClientID != "" {
			return []string{issuer.Given() + ": is required when an audience, claims or a client are given"}
		}
		return nil
	}
	if _, err := s.oidc(); err != nil {
		return []string{issuer.Given() + ": " + err.Error()}
	}
	return nil
}

// oidc returns the verifier of session tokens. It is nil if no session tokens are accepted.
func (s *config) oidc() (*auth.OIDC, error) {
	if s.OIDCIssuer == "" {
		return nil, nil //nolint:nilnil // nil if no session tokens are accepted
	}
	claims, err := auth.ParseClaimNames(s.OIDCClaims)
	if err != nil {
		return nil, err
	}
	return auth.NewOIDC(auth.OIDCConfig{
		Issuer: s.OIDCIssuer, Audience: s.OIDCAudience, Claims: claims, AuthorizedParties: s.OIDCParties, MaxLifetime: s.OIDCMaxLifetime,
		ClientID: s.OIDCClientID, Scopes: s.OIDCScopes,
	})
}

// lifetime parses --expires, the lifetime of a credential, as a duration or as whole days. A credential with the
// lifetime 0 does not expire.
func lifetime(text string) (time.Duration, error) {
	if d, ok := hoursOrDays(text); ok {
		return d, nil
	}
	return 0, cli.Usagef("--expires: must be hours or days above zero, such as 720h or 30d; leave it out for a credential that does not expire")
}

// retention parses how long records are kept: a duration, or whole days. 0 keeps them forever.
func retention(to *time.Duration) func(string) error {
	return func(text string) error {
		d, ok := hoursOrDays(text)
		if !ok {
			return errors.New("must be hours or days, such as 720h or 30d; 0 keeps them forever")
		}
		*to = d
		return nil
	}
}

func hoursOrDays(text string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, true
		}
	} else if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return d, true
	}
	return 0, false
}
