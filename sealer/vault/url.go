package vault

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// The schemes of URLs: schemeTLS for a server, schemePlain for an agent on this machine.
const (
	schemeTLS   = "vault+https"
	schemePlain = "vault+http"
)

// Schemes returns what the URL of a key begins with, up to the colon.
func Schemes() []string { return []string{schemeTLS, schemePlain} }

// Forms says what a URL looks like, for messages.
const Forms = "vault+https://<host>:<port>/<mount>/<key>?token_file=<path> (or role_id=<id>&secret_id_file=<path>, or kubernetes_role=<name>)"

// Config says where a key is, and how to log in. It has no secret: those are in files.
type Config struct {
	Address   string // https://host:port, or http:// on this machine
	Mount     string // of the transit engine
	Key       string
	Namespace string

	CAFile            string // authorities that may have signed the server's certificate; empty means the system's
	CertFile, KeyFile string // this client's certificate, if the server asks for one

	TokenFile            string // a token that others renew
	RoleID, SecretIDFile string // AppRole
	KubernetesRole       string
	JWTFile              string // of the service account, for Kubernetes
	AuthMount            string // of AppRole or Kubernetes, if not its default
}

// defaultJWTFile is where Kubernetes puts the token of a pod's service account.
const defaultJWTFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// segment is what a name in a path may be: no escapes, no dots alone, so that a URL means one path.
var segment = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// ParseURL reads the URL of a key. It reads no file. Its error says what is wrong, and quotes nothing but names.
func ParseURL(text string) (Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.RawPath != "" {
		return Config{}, fmt.Errorf("must be %s", Forms)
	}
	cfg := Config{}
	switch {
	case u.Scheme == schemeTLS:
		cfg.Address = "https://" + u.Host
	case u.Scheme == schemePlain && isLoopback(u.Hostname()):
		cfg.Address = "http://" + u.Host
	case u.Scheme == schemePlain:
		return Config{}, fmt.Errorf("%s:// would send tokens and data keys in the clear, and is for 127.0.0.1 and ::1 alone; use %s://", schemePlain, schemeTLS)
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
	targets := map[string]*string{
		"namespace": &c.Namespace, "ca": &c.CAFile, "cert": &c.CertFile, "key": &c.KeyFile, "token_file": &c.TokenFile, "role_id": &c.RoleID,
		"secret_id_file": &c.SecretIDFile, "kubernetes_role": &c.KubernetesRole, "jwt_file": &c.JWTFile, "auth_mount": &c.AuthMount,
	}
	for name, values := range query {
		target, known := targets[name]
		if !known {
			return fmt.Errorf("has the parameter %q; known are ca, cert, key, namespace, token_file, role_id, secret_id_file, kubernetes_role, jwt_file and auth_mount",
				name)
		}
		if len(values) != 1 || values[0] == "" {
			return fmt.Errorf("has the parameter %s without a value, or twice", name)
		}
		*target = values[0]
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
	ways := 0
	for _, isGiven := range []bool{c.TokenFile != "", c.RoleID != "" || c.SecretIDFile != "", c.KubernetesRole != "" || c.JWTFile != ""} {
		if isGiven {
			ways++
		}
	}
	switch {
	case ways != 1:
		return fmt.Errorf("needs one way to log in: token_file, role_id with secret_id_file, or kubernetes_role")
	case (c.RoleID == "") != (c.SecretIDFile == ""):
		return fmt.Errorf("needs both role_id and secret_id_file for AppRole")
	case c.JWTFile != "" && c.KubernetesRole == "":
		return fmt.Errorf("needs kubernetes_role beside jwt_file")
	case c.TokenFile != "" && c.AuthMount != "":
		return fmt.Errorf("has auth_mount, which a token file does not need")
	}
	if c.KubernetesRole != "" && c.JWTFile == "" {
		c.JWTFile = defaultJWTFile
	}
	if c.AuthMount == "" {
		c.AuthMount = "approle"
		if c.KubernetesRole != "" {
			c.AuthMount = "kubernetes"
		}
	}
	return nil
}

func isLoopback(host string) bool {
	address := net.ParseIP(host)
	return address != nil && address.IsLoopback()
}
