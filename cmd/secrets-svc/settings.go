package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/internal/tlsfiles"
	"github.com/agentrouter/aikeys/internal/unixsocket"
)

// config has the settings. newConfig declares each once, with its flag, variable, default and help. load checks the settings that depend
// on one another.
type config struct {
	*settings.Set

	Listen          string
	SocketGroup     string
	OpsListen       string
	Clients         string
	Keys            string
	Sealer          string
	SealerOld       []string
	SealerCache     time.Duration
	AuditLog        string
	TLSCert         string
	TLSKey          string
	TLSClientCA     string
	MaxConcurrent   int
	MaxQueue        int
	LockMemory      string
	LogLevel        string
	LogFormat       string
	ShutdownTimeout time.Duration
}

// The values of lock-memory.
const (
	lockAuto    = "auto"
	lockRequire = "require"
	lockOff     = "off"
)

const (
	variablePrefix = "SECRETS_SVC_"
	// standardOutput is the value of audit-log for standard output.
	standardOutput = "-"
)

// The largest values of max-concurrent and max-queue.
const (
	mostConcurrent = 10_000
	mostQueued     = 100_000
)

func newConfig() *config {
	s := &config{}
	s.Set = settings.New(settings.Names{Prefix: variablePrefix, Program: "secrets-svc"}, []*settings.Setting{
		{Name: "listen", Arg: "address", Default: "unix:data/secrets-svc.sock", Parse: settings.AddressOrSocket(&s.Listen),
			Usage: "unix:<path> of a socket, or host:port for mutual TLS; there is no plain TCP"},
		{Name: "socket-group", Arg: "group", Parse: settings.Text(&s.SocketGroup),
			Usage: "group, by name or number, whose processes may also connect to the socket; if empty, only this user's may"},
		{Name: "ops-listen", Arg: "address", Default: "127.0.0.1:8083", Parse: settings.Address(&s.OpsListen),
			Usage: "host:port of /healthz, /readyz and /metrics: plain HTTP without authentication, so keep it off the public network"},
		{Name: "clients", Arg: "file", Default: "data/secrets-clients.yaml", Parse: settings.Text(&s.Clients),
			Usage: "file that lists who may connect and what each client may do; with mode 0600; read again when it changes"},
		{Name: "keys", Arg: "folder", Default: "data/secrets-keys", Parse: settings.Text(&s.Keys),
			Usage: "folder with the keyset file of each namespace, <namespace>.json; read again when they change"},
		{Name: "sealer", Arg: "URL", Default: sealerLocal, Parse: settings.Text(&s.Sealer),
			Usage: "where the key-encryption keys are: local for that folder, or the URL of a key in a key management service (vault+https:, awskms: or gcpkms:), with {namespace} in the key's name; see docs/kms.md"},
		{Name: "sealer-old", Arg: "URLs", Parse: settings.List(&s.SealerOld),
			Usage: "former sealers, separated by commas, which open what \"aikeysd rewrap\" has not moved yet; they seal nothing"},
		{Name: "sealer-cache", Arg: "duration", Default: "0s", Parse: settings.UpToAnHour(&s.SealerCache),
			Usage: "how long the data key of an opened secret stays in memory, so that the secret opens again without a call to the key management service; at most 1h; 0s keeps none"},
		{Name: "audit-log", Arg: "file", Default: standardOutput, Parse: settings.Text(&s.AuditLog),
			Usage: "file that gets a line in JSON for each open and each change of keys; - is standard output. An open that can't be written there is refused"},
		{Name: "tls-cert", Arg: "file", Parse: settings.Text(&s.TLSCert),
			Usage: "certificate chain of this service for host:port, in PEM; read again when it changes"},
		{Name: "tls-key", Arg: "file", Parse: settings.Text(&s.TLSKey),
			Usage: "private key of the certificate, in PEM"},
		{Name: "tls-client-ca", Arg: "file", Parse: settings.Text(&s.TLSClientCA),
			Usage: "certificates of the authorities that may issue clients' certificates, in PEM; read again when they change"},
		{Name: "max-concurrent", Arg: "number", Default: "0", Parse: settings.Count(&s.MaxConcurrent, 0, mostConcurrent),
			Usage: "how many operations may run at once; 0 is four for each CPU"},
		{Name: "max-queue", Arg: "number", Default: "256", Parse: settings.Count(&s.MaxQueue, 0, mostQueued),
			Usage: "how many operations may wait to run; others get a 503 at once"},
		{Name: "lock-memory", Arg: "when", Default: lockAuto, Parse: settings.Choice(&s.LockMemory, lockAuto, lockRequire, lockOff),
			Usage: "auto keeps memory out of swap where the system permits; require refuses to start where it does not; off does not try"},
		{Name: "log-level", Arg: "level", Default: "info", Parse: settings.Choice(&s.LogLevel, "debug", "info", "warn", "error"),
			Usage: "lowest level to log: debug, info, warn or error; debug logs every operation"},
		{Name: "log-format", Arg: "format", Default: cli.LogAuto, Parse: settings.Choice(&s.LogFormat, cli.LogAuto, cli.LogJSON, cli.LogText),
			Usage: "auto, json or text; auto is text on a terminal and JSON elsewhere"},
		{Name: "shutdown-timeout", Arg: "duration", Default: "20s", Parse: settings.Duration(&s.ShutdownTimeout),
			Usage: "how long requests in flight may take before they are cut"},
	})
	return s
}

// socketPath returns the path of the socket to listen on. ok is false if the service listens with mutual TLS.
func (s *config) socketPath() (path string, ok bool) {
	return strings.CutPrefix(s.Listen, unixsocket.Prefix)
}

// load reads the variables and checks all settings. Flags win. The error lists all complaints.
func (s *config) load(environ []string) error { return s.Read(environ, s.checkTLS, s.checkSealer) }

// checkTLS requires three files for mutual TLS and none for a socket.
func (s *config) checkTLS() (complaints []string) {
	_, isSocket := s.socketPath()
	for _, name := range []string{"tls-cert", "tls-key", "tls-client-ca"} {
		setting := s.Of(name)
		switch given := setting.String() != ""; {
		case s.Listen == "": // reported already
		case isSocket && given:
			complaints = append(complaints, fmt.Sprintf("%s: is for mutual TLS, and %s is a unix socket", setting.Given(), s.Of("listen").Given()))
		case !isSocket && !given:
			complaints = append(complaints, fmt.Sprintf("%s: is required, as %s is not a unix socket: certificates must identify the clients",
				setting.Given(), s.Of("listen").Given()))
		}
	}
	if !isSocket && s.SocketGroup != "" {
		complaints = append(complaints, s.Of("socket-group").Given()+": is for a unix socket")
	}
	return complaints
}

// mutualTLS returns a TLS configuration that requires from every client a certificate of the configured authorities.
func (s *config) mutualTLS(log *slog.Logger) (*tls.Config, error) {
	own, err := tlsfiles.OpenPair("TLS certificate", s.TLSCert, s.TLSKey, log)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", s.Of("tls-cert").Given(), s.Of("tls-key").Given(), err)
	}
	clients, err := tlsfiles.OpenPool("client CA file", s.TLSClientCA, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Of("tls-client-ca").Given(), err)
	}
	return tlsfiles.MutualConfig(own, clients, tls.RequireAndVerifyClientCert, tls.VersionTLS13, "http/1.1"), nil
}
