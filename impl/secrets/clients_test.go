package secrets_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/identity"
)

const twoClients = `
clients:
  - name: aikeysd
    uids: [1001, 1002]
    namespace: main
    may: [seal, open, status]
  - name: rewrap
    certificates: ["dns:rewrap.internal", "uri:spiffe://acme/rewrap", "cn:Re-wrap"]
    namespace: main
    may: [rewrap, status]
`

func TestFindClientByIdentity(t *testing.T) {
	list, err := secrets.ParseClients([]byte(twoClients))
	require.NoError(t, err)
	require.Equal(t, []string{"main"}, list.Namespaces())
	require.Equal(t, []string{"uid:1001", "uid:1002"}, list.Identities("aikeysd"))
	for who, name := range map[identity.Identity]string{
		{Kind: identity.UID, Name: "1001"}: "aikeysd", {Kind: identity.UID, Name: "1002"}: "aikeysd",
		{Kind: identity.DNSName, Name: "rewrap.internal"}: "rewrap", {Kind: identity.URI, Name: "spiffe://acme/rewrap"}: "rewrap",
		{Kind: identity.CommonName, Name: "Re-wrap"}: "rewrap",
	} {
		client, ok := list.Find([]identity.Identity{{Kind: identity.DNSName, Name: "other"}, who})
		require.True(t, ok, who)
		require.Equal(t, name, client.Name)
	}
	for _, strangers := range [][]identity.Identity{
		nil, {{Kind: identity.UID, Name: "0"}}, {{Kind: identity.CommonName, Name: "rewrap.internal"}}, {{Kind: identity.DNSName, Name: "REWRAP.internal"}},
		{{Kind: identity.UID, Name: "1001"}, {Kind: identity.CommonName, Name: "Re-wrap"}}, // of two clients
	} {
		_, ok := list.Find(strangers)
		require.False(t, ok, strangers)
	}
	client, _ := list.Find([]identity.Identity{{Kind: identity.CommonName, Name: "Re-wrap"}})
	require.Equal(t, map[secrets.Permission]bool{secrets.Rewrap: true, secrets.Status: true}, client.May)
}

func TestParseClientsRefusesInvalidFiles(t *testing.T) {
	entry := func(text string) string { return `{"clients": [` + text + `]}` }
	const good = `{"name": "a", "uids": [1], "namespace": "main", "may": ["seal"]}`
	for name, tc := range map[string]struct{ text, says string }{
		"nothing":                    {"", "it is empty, and must list the clients that may connect"},
		"comments alone":             {"# nobody yet\n", "it is empty, and must list the clients that may connect"},
		"no clients":                 {"{}", "it lists no clients"},
		"no YAML":                    {"clients: [", "invalid clients file"},
		"another member":             {entry(`{"name": "a", "uid": 1, "namespace": "main", "may": ["seal"]}`), "field uid not found"},
		"a member twice":             {entry(`{"name": "a", "name": "b", "uids": [1], "namespace": "main", "may": ["seal"]}`), "already defined"},
		"two documents":              {entry(good) + "\n---\n" + entry(good), "more than one document"},
		"no name":                    {entry(`{"uids": [1], "namespace": "main", "may": ["seal"]}`), "name must be"},
		"a name that is taken":       {entry(good + "," + `{"name": "a", "uids": [2], "namespace": "main", "may": ["seal"]}`), "the name is taken by another client"},
		"the name for nobody":        {entry(`{"name": "none", "uids": [1], "namespace": "main", "may": ["seal"]}`), "name must be"},
		"no namespace":               {entry(`{"name": "a", "uids": [1], "may": ["seal"]}`), "namespace must be"},
		"a namespace that is a path": {entry(`{"name": "a", "uids": [1], "namespace": "../main", "may": ["seal"]}`), "namespace must be"},
		"nothing that it may":        {entry(`{"name": "a", "uids": [1], "namespace": "main"}`), "may must list"},
		"an unknown permission":      {entry(`{"name": "a", "uids": [1], "namespace": "main", "may": ["seal", "all"]}`), `may has "all"`},
		"nobody":                     {entry(`{"name": "a", "namespace": "main", "may": ["seal"]}`), "it needs uids or certificates"},
		"a certificate of no kind":   {entry(`{"name": "a", "certificates": ["aikeysd"], "namespace": "main", "may": ["seal"]}`), "each of certificates must be"},
		"a certificate of no name":   {entry(`{"name": "a", "certificates": ["dns:"], "namespace": "main", "may": ["seal"]}`), "each of certificates must be"},
		"a uid of two clients":       {entry(good + "," + `{"name": "b", "uids": [1], "namespace": "main", "may": ["open"]}`), "uid:1 belongs to client 1 already"},
		"a negative uid":             {entry(`{"name": "a", "uids": [-1], "namespace": "main", "may": ["seal"]}`), "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := secrets.ParseClients([]byte(tc.text))
			require.ErrorIs(t, err, secrets.ErrClients)
			require.ErrorContains(t, err, tc.says)
			require.Nil(t, list)
		})
	}
	_, err := secrets.ParseClients([]byte(entry(good)))
	require.NoError(t, err)
}

func FuzzClientsFile(f *testing.F) {
	f.Add([]byte(twoClients))
	f.Add([]byte(`{"clients": [{"name": "a", "uids": [1], "namespace": "main", "may": ["seal"]}]}`))
	f.Add([]byte("clients: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := secrets.ParseClients(text)
		if err != nil {
			require.ErrorIs(t, err, secrets.ErrClients)
			return
		}
		for _, client := range list.All() {
			require.True(t, secrets.IsNamespace(client.Namespace))
			require.NotEmpty(t, list.Identities(client.Name))
			require.NotEmpty(t, client.May)
		}
	})
}

func TestClientsFilePermissions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients.yaml")
	require.NoError(t, os.WriteFile(path, []byte(twoClients), 0o600))
	_, err := secrets.ReadClients(path)
	require.NoError(t, err)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := secrets.ReadClients(path)
		require.ErrorIs(t, err, secrets.ErrClients)
		require.ErrorContains(t, err, "chmod 600")
	}
	_, err = secrets.ReadClients(t.TempDir())
	require.ErrorIs(t, err, secrets.ErrClients)
	_, err = secrets.ReadClients(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestClientsFileReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients.yaml")
	require.NoError(t, os.WriteFile(path, []byte(twoClients), 0o600))
	var log bytes.Buffer // written by Get, which reads the file again
	file, err := secrets.OpenClients(path, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	known := func(uid string) bool {
		_, ok := file.Get(t.Context()).Find([]identity.Identity{{Kind: identity.UID, Name: uid}})
		return ok
	}
	require.True(t, known("1001"))

	require.NoError(t, os.WriteFile(path, []byte("clients: ["), 0o600))
	require.Eventually(t, func() bool {
		known("1001")
		return bytes.Contains(log.Bytes(), []byte("the old one stays in force"))
	}, 10*time.Second, 20*time.Millisecond)
	require.True(t, known("1001"))

	require.NoError(t, os.WriteFile(path, []byte(`{"clients": [{"name": "a", "uids": [7], "namespace": "main", "may": ["seal"]}]}`), 0o600))
	require.Eventually(t, func() bool { return known("7") }, 10*time.Second, 20*time.Millisecond)
	require.False(t, known("1001"))
}
