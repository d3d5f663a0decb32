package vault

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/sealer/kms"
)

// The schemes of a key's URL: SchemeTLS for a server, SchemePlain for an agent on this machine.
const (
	SchemeTLS   = "vault+https"
	SchemePlain = "vault+http"
)

// Forms shows the form of a URL, for messages.
const Forms = "vault+https://<host>:<port>/<mount>/<key>?token_file=<path> (or role_id=<id>&secret_id_file=<path>, or kubernetes_role=<name>)"

// Config says where a key is, and how to log in. Secrets are in files that it names.
type Config struct {
	Address   string // https://host:port, or http:// on this machine
	Mount     string // of the transit engine
	Key       string
	Namespace string

	CAFile            string // authorities that may issue the server's certificate; empty means the system's
	CertFile, KeyFile string // this client's certificate, if the server asks for one

	TokenFile            string // has a token that another program renews
	RoleID, SecretIDFile string // AppRole
	KubernetesRole       string
	JWTFile              string // of the service account, for Kubernetes
	AuthMount            string // of AppRole or Kubernetes, if not its default
}

// defaultJWTFile is where Kubernetes puts the token of a pod's service account.
const defaultJWTFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// segment matches a name in a path. Escapes, . and .. are not allowed, so that a URL means exactly one path.
var segment = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// ParseURL parses the URL of a key. It reads no file. Its error says what is wrong, and quotes only names.
func ParseURL(text string) (Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawPath != "" {
		return Config{}, fmt.Errorf("must be %s", Forms)
	}
	cfg := Config{}
	switch {
	case u.Scheme == SchemeTLS:
		cfg.Address = "https://" + u.Host
	case u.Scheme == SchemePlain && netaddr.Parse(u.Hostname()).IsLoopback():
		cfg.Address = "http://" + u.Host
	case u.Scheme == SchemePlain:
		return Config{}, fmt.Errorf("%s:// would send tokens and data keys in the clear, and is for 127.0.0.1 and ::1 alone; use %s://", SchemePlain, SchemeTLS)
	default:
		return Config{}, fmt.Errorf("must be %s", Forms)
	}
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	for _, part := range parts {
		if !segment.MatchString(part) {
			return Config{}, fmt.Errorf("must be %s", Forms)
		}
	}
	if len(parts) < 2 {
		return Config{}, fmt.Errorf("names no key: must be %s", Forms)
	}
	cfg.Mount, cfg.Key = strings.Join(parts[:len(parts)-1], "/"), parts[len(parts)-1]
	if err := cfg.readQuery(u.RawQuery); err != nil {
		return Config{}, err
	}
	if n := len(cfg.kekID(1 << 30)); n > 255 {
		return Config{}, fmt.Errorf("names a key whose id has %d bytes; at most 255 fit into an envelope", n)
	}
	err = cfg.checkAuth()
	return cfg, err
}

func (c *Config) readQuery(raw string) error {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("must be %s", Forms)
	}
	err = kms.ReadParameters(query, map[string]*string{
		"namespace": &c.Namespace, "ca": &c.CAFile, "cert": &c.CertFile, "key": &c.KeyFile, "token_file": &c.TokenFile, "role_id": &c.RoleID,
		"secret_id_file": &c.SecretIDFile, "kubernetes_role": &c.KubernetesRole, "jwt_file": &c.JWTFile, "auth_mount": &c.AuthMount,
	})
	if err != nil {
		return err
	}
	c.Namespace, c.AuthMount = strings.Trim(c.Namespace, "/"), strings.Trim(c.AuthMount, "/")
	for _, path := range []string{c.Namespace, c.AuthMount} {
		if path != "" && slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool { return !segment.MatchString(part) }) {
			return fmt.Errorf("has a namespace or an auth_mount that is not a path of plain names")
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return fmt.Errorf("needs both cert and key, or neither")
	}
	return nil
}

// checkAuth requires exactly one way to log in, and fills in its defaults.
func (c *Config) checkAuth() error {
	hasToken, hasRole, hasKubernetes := c.TokenFile != "", c.RoleID+c.SecretIDFile != "", c.KubernetesRole+c.JWTFile != ""
	switch {
	case hasToken && (hasRole || hasKubernetes), hasRole && hasKubernetes, !hasToken && !hasRole && !hasKubernetes:
		return fmt.Errorf("needs one way to log in: token_file, role_id with secret_id_file, or kubernetes_role")
	case (c.RoleID == "") != (c.SecretIDFile == ""):
		return fmt.Errorf("needs both role_id and secret_id_file for AppRole")
	case c.JWTFile != "" && c.KubernetesRole == "":
		return fmt.Errorf("needs kubernetes_role beside jwt_file")
	case c.TokenFile != "" && c.AuthMount != "":
		return fmt.Errorf("has auth_mount, which a token file does not need")
	}
	if hasKubernetes {
		c.JWTFile, c.AuthMount = cmp.Or(c.JWTFile, defaultJWTFile), cmp.Or(c.AuthMount, "kubernetes")
	}
	c.AuthMount = cmp.Or(c.AuthMount, "approle")
	return nil
}
