package rewrap_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(runChild())
	}
	code := modelstest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var olga = models.Caller{CustomerID: "acme", ProjectID: "web", UserID: "olga"}

// env is an installation: a database with keys, and the keyset that opens them.
type env struct {
	*models.Store
	t       *testing.T
	url     string
	keyset  string
	sealer  sealer.Sealer
	ids     models.IDs
	db      *sql.DB // opened by database
	canary  []byte
	mu      sync.Mutex
	secrets map[string]string // by key id
}

// each runs a test on both databases in parallel, with the given number of keys.
func each(t *testing.T, keys int, test func(t *testing.T, env *env)) {
	t.Helper()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		test(t, newEnv(t, e, keys))
	})
}

func newEnv(t *testing.T, e modelstest.Engine, keys int) *env {
	t.Helper()
	env := &env{t: t, url: e.URL(t), keyset: filepath.Join(t.TempDir(), "keyset.json"), secrets: map[string]string{}}
	env.Store = modelstest.OpenStore(t, env.url, models.Options{})
	_, err := env.Migrate(t.Context())
	require.NoError(t, err)
	env.sealer = open(t, env.keyset)
	value, err := keysetcheck.New(env.Store, env.sealer).FingerprintKey(t.Context())
	require.NoError(t, err)
	env.canary = value
	require.NoError(t, env.Transact(t.Context(), func(tx *models.Tx) error {
		if err := tx.EnsureProject(olga.CustomerID, olga.ProjectID); err != nil {
			return err
		}
		_, err := tx.SetMember(olga.CustomerID, olga.ProjectID, olga.UserID, models.RoleOwner)
		return err
	}))
	env.registerMany(keys)
	return env
}

func open(t testing.TB, keyset string) sealer.Sealer {
	t.Helper()
	s, err := local.Open(keyset)
	require.NoError(t, err)
	return s
}

// rotate adds a new primary KEK to the keyset and reopens it.
func (env *env) rotate() {
	env.t.Helper()
	id, err := local.AddKEK(env.keyset)
	require.NoError(env.t, err)
	require.NoError(env.t, local.SetPrimary(env.keyset, id))
	env.sealer = open(env.t, env.keyset)
}

// registerMany registers keys as the service does.
func (env *env) registerMany(keys int) {
	env.t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	for range keys {
		group.Go(func() error { return env.register(env.sealer) })
	}
	require.NoError(env.t, group.Wait())
}

func secretOf(id string) string { return "sk-secret-of-" + id }

// register registers one key. It is safe for concurrent use.
func (env *env) register(s sealer.Sealer) error {
	now := time.Now()
	k := models.Key{ID: env.ids.Next(models.KeyIDPrefix, now), CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, Provider: "openai",
		DisplaySuffix: "wxyz", Version: 1, CreatedAt: now.UnixMicro(), CreatedBy: olga.UserID}
	k.Name = k.ID
	envelope, err := s.Seal(env.t.Context(), bindingOf(k), sealer.NewSecret([]byte(secretOf(k.ID))))
	if err != nil {
		return err
	}
	k.Envelope, k.KEKID = envelope.Bytes, envelope.KEKID
	_, err = env.RegisterKey(env.t.Context(), olga, models.RoleOwner, models.Registration{
		Key: k, Event: env.event(models.EventKeyRegistered, k.ID, k.CreatedAt)}, k.CreatedAt)
	if err != nil {
		return err
	}
	env.mu.Lock()
	defer env.mu.Unlock()
	env.secrets[k.ID] = secretOf(k.ID)
	return nil
}

func (env *env) revoke(id string) {
	env.t.Helper()
	require.NoError(env.t, env.tryRevoke(env.t.Context(), id))
}

// tryRevoke revokes a key and records the event. It is safe for concurrent use.
func (env *env) tryRevoke(ctx context.Context, id string) error {
	return env.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.RevokeKey(&models.Key{ID: id}, olga.UserID, env.event(models.EventKeyRevoked, id, tx.Now))
		return err
	})
}

// event returns an event about a key.
func (env *env) event(kind models.EventType, keyID string, at int64) models.Event {
	return models.Event{CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, ID: env.ids.Next(models.EventIDPrefix, time.UnixMicro(at)),
		Type: kind, Outcome: models.OutcomeAllowed, At: at, ActorUserID: olga.UserID, KeyID: keyID}
}

// database returns a connection that bypasses the store.
func (env *env) database() *sql.DB {
	env.t.Helper()
	if env.db == nil {
		driver, source := "pgx", env.url
		if path, ok := strings.CutPrefix(env.url, "sqlite:"); ok {
			driver, source = "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)"
		}
		var err error
		env.db, err = sql.Open(driver, source)
		require.NoError(env.t, err)
		env.t.Cleanup(func() { require.NoError(env.t, env.db.Close()) })
	}
	return env.db
}

// replace overwrites the envelope of a row.
func (env *env) replace(id string, envelope []byte, kekID string) {
	env.t.Helper()
	k := env.row(id)
	stored, err := env.Rewrap(env.t.Context(), []models.Rewrapping{{KeyID: id, Version: k.Version, Old: k.Envelope, New: envelope, KEKID: kekID}})
	require.NoError(env.t, err)
	require.Len(env.t, stored, 1)
}

func (env *env) row(id string) models.Key {
	env.t.Helper()
	k, err := env.SealedKey(env.t.Context(), id)
	require.NoError(env.t, err)
	return k
}

func (env *env) rows() []models.Key {
	env.t.Helper()
	keys, err := env.SealedKeys(env.t.Context(), "", 100_000)
	require.NoError(env.t, err)
	return keys
}

func bindingOf(k models.Key) sealer.Binding {
	return sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID, KeyID: k.ID, Provider: k.Provider, Version: k.Version}
}

// requireAllOpen checks that each key opens to its own secret and the canary to its value, and that each row names the KEK of
// its envelope.
func (env *env) requireAllOpen(s sealer.Sealer) {
	env.t.Helper()
	rows := env.rows()
	require.Len(env.t, rows, len(env.secrets))
	for _, k := range rows {
		secret, err := s.Open(env.t.Context(), bindingOf(k), k.Envelope)
		require.NoError(env.t, err, k.ID)
		require.Equal(env.t, env.secrets[k.ID], string(secret.Reveal()))
		named, err := sealer.KEKIDOf(k.Envelope)
		require.NoError(env.t, err)
		require.Equal(env.t, named, k.KEKID)
	}
	value, err := keysetcheck.New(env.Store, s).FingerprintKey(env.t.Context())
	require.NoError(env.t, err)
	require.Equal(env.t, env.canary, value)
}

// requireDone checks that everything but the given unreadable keys is under the sealer's primary KEK.
func (env *env) requireDone(s sealer.Sealer, unreadable ...string) {
	env.t.Helper()
	primary, err := s.PrimaryKEK(env.t.Context())
	require.NoError(env.t, err)
	for _, k := range env.rows() {
		if k.KEKID != primary {
			require.Contains(env.t, unreadable, k.ID)
		}
	}
	row, err := env.Canary(env.t.Context())
	require.NoError(env.t, err)
	require.Equal(env.t, primary, row.KEKID)
}

// run runs a job to completion.
func (env *env) run(s sealer.Sealer) rewrap.Result {
	env.t.Helper()
	result, err := rewrap.New(rewrap.Config{Store: env.Store, Sealer: s}).Run(env.t.Context())
	require.NoError(env.t, err)
	return result
}
