package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/internal/filereload"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/internal/secretfile"
)

// Permission is what a client may do.
type Permission string

// The permissions, each for one operation.
const (
	Seal   Permission = "seal"
	Open   Permission = "open"
	Rewrap Permission = "rewrap"
	Status Permission = "status" // list the namespace's KEKs
)

// Client is an entry of the clients file.
type Client struct {
	Name string
	// Namespace is the only namespace in which the client can seal and open.
	Namespace string
	May       map[Permission]bool
}

// ErrClients means that a clients file is invalid.
var ErrClients = errors.New("invalid clients file")

// ClientList is the content of a clients file.
type ClientList struct {
	clients []Client
	owners  map[identity.Identity]int // :: identity → index in clients of the client that has it
}

// clientEntry is a client as written in the file; see docs/secrets.md.
type clientEntry struct {
	Name         string       `yaml:"name"`
	UIDs         []uint32     `yaml:"uids"`
	Certificates []string     `yaml:"certificates"`
	Namespace    string       `yaml:"namespace"`
	May          []Permission `yaml:"may"`
}

// ParseClients parses a clients file, in YAML or JSON. Its error wraps ErrClients and lists everything that is wrong, one
// complaint per line.
func ParseClients(text []byte) (*ClientList, error) {
	var document struct {
		Clients []clientEntry `yaml:"clients"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text)) // JSON is YAML too
	decoder.KnownFields(true)
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it is empty, and must list the clients that may connect", ErrClients)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClients, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it holds more than one document", ErrClients)
	}
	list := &ClientList{owners: map[identity.Identity]int{}}
	var complaints []string
	if len(document.Clients) == 0 {
		complaints = append(complaints, "it lists no clients")
	}
	for i, entry := range document.Clients {
		for _, complaint := range list.add(entry) {
			complaints = append(complaints, fmt.Sprintf("client %d (%q): %s", i+1, entry.Name, complaint))
		}
	}
	if len(complaints) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrClients, strings.Join(complaints, "\n"))
	}
	return list, nil
}

// add adds a client and returns what is wrong with it.
func (l *ClientList) add(entry clientEntry) (complaints []string) {
	client := Client{Name: entry.Name, Namespace: entry.Namespace, May: map[Permission]bool{}}
	if !namePattern.MatchString(entry.Name) || entry.Name == nobody {
		complaints = append(complaints, fmt.Sprintf("name must be 1 to 64 characters a-z, 0-9, - and _, and not %q", nobody))
	}
	if slices.ContainsFunc(l.clients, func(c Client) bool { return c.Name == entry.Name }) {
		complaints = append(complaints, "the name is taken by another client")
	}
	if !IsNamespace(entry.Namespace) {
		complaints = append(complaints, "namespace must be 1 to 64 characters a-z, 0-9, - and _")
	}
	if len(entry.May) == 0 {
		complaints = append(complaints, "may must list one or more of seal, open, rewrap, status")
	}
	for _, permission := range entry.May {
		if !slices.Contains([]Permission{Seal, Open, Rewrap, Status}, permission) {
			complaints = append(complaints, fmt.Sprintf("may has %q; it must be seal, open, rewrap or status", permission))
		}
		client.May[permission] = true
	}
	identities, err := identitiesOf(entry.UIDs, entry.Certificates)
	if err != nil {
		complaints = append(complaints, err.Error())
	}
	for _, who := range identities {
		if owner, taken := l.owners[who]; taken {
			complaints = append(complaints, fmt.Sprintf("%s belongs to client %d already", who, owner+1))
		}
		l.owners[who] = len(l.clients)
	}
	l.clients = append(l.clients, client)
	return complaints
}

// namePattern matches names that are safe in logs, metrics and file names.
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// IsNamespace reports whether name is a valid name of a namespace.
func IsNamespace(name string) bool { return namePattern.MatchString(name) }

func identitiesOf(uids []uint32, certificates []string) (found []identity.Identity, err error) {
	if len(uids)+len(certificates) == 0 {
		return nil, errors.New("it needs uids or certificates to be recognized by")
	}
	for _, uid := range uids {
		found = append(found, identity.Identity{Kind: identity.UID, Name: strconv.FormatUint(uint64(uid), 10)})
	}
	for _, certificate := range certificates {
		name, err := identity.ParseCertificate(certificate)
		if err != nil {
			return nil, fmt.Errorf("each of certificates %w", err)
		}
		found = append(found, name)
	}
	return found, nil
}

// Find returns the client that has one of these identities. ok is false if no client has any of them, or if they belong
// to two clients, as the names in one certificate may.
func (l *ClientList) Find(identities []identity.Identity) (client Client, ok bool) {
	found := -1
	for _, who := range identities {
		owner, listed := l.owners[who]
		if !listed || owner == found {
			continue
		}
		if found >= 0 {
			return Client{}, false
		}
		found = owner
	}
	if found < 0 {
		return Client{}, false
	}
	return l.clients[found], true
}

// OpenClients reads a clients file, and reads it again when it changes. The file must meet the conditions of
// secretfile.Read, since write access to it is enough to open secrets.
func OpenClients(path string, log *slog.Logger) (*filereload.Value[*ClientList], error) {
	return filereload.Open(filereload.Source[*ClientList]{
		Name: "clients file", Files: []string{path}, Load: func() (*ClientList, error) { return ReadClients(path) }, Log: log,
	})
}

// ReadClients reads a clients file once, with the checks of OpenClients.
func ReadClients(path string) (*ClientList, error) {
	text, err := secretfile.Read(path)
	switch {
	case errors.Is(err, secretfile.ErrInsecure), errors.Is(err, secretfile.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrClients, err)
	case err != nil:
		return nil, fmt.Errorf("clients file: %w", err)
	}
	list, err := ParseClients(text)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return list, nil
}

// All returns the clients in the order of the file.
func (l *ClientList) All() []Client { return slices.Clone(l.clients) }

// Identities returns the identities by which a client is recognized, sorted.
func (l *ClientList) Identities(name string) (found []string) {
	for who, owner := range l.owners {
		if l.clients[owner].Name == name {
			found = append(found, who.String())
		}
	}
	slices.Sort(found)
	return found
}

// Namespaces returns the namespaces of all clients, each once, sorted.
func (l *ClientList) Namespaces() []string {
	names := make([]string, len(l.clients))
	for i, client := range l.clients {
		names[i] = client.Namespace
	}
	slices.Sort(names)
	return slices.Compact(names)
}
