package rewrap

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) {
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
	env.sealer = openKeyset(t, env.keyset)
	require.NoError(t, keysetcheck.New(env.Store, env.sealer, keysetcheck.SealAndOpen).Check(t.Context()))
	env.canary = env.openCanary(env.sealer)
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

// openCanary returns the canary's value.
func (env *env) openCanary(s sealer.Sealer) []byte {
	env.t.Helper()
	row, err := env.Canary(env.t.Context())
	require.NoError(env.t, err)
	opened, err := s.Open(env.t.Context(), sealer.CanaryBinding(), row.Envelope)
	require.NoError(env.t, err)
	return opened.Reveal()
}

func openKeyset(t *testing.T, path string) sealer.Sealer {
	t.Helper()
	s, err := local.Open(path)
	require.NoError(t, err)
	return s
}

// rotate adds a new primary KEK to the keyset and reopens it.
func (env *env) rotate() {
	env.t.Helper()
	id, err := local.AddKEK(env.keyset)
	require.NoError(env.t, err)
	require.NoError(env.t, local.SetPrimary(env.keyset, id))
	env.sealer = openKeyset(env.t, env.keyset)
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
	env.mu.Lock()
	defer env.mu.Unlock()
	env.secrets[k.ID] = secretOf(k.ID)
	return err
}

// revoke revokes a key and records the event. It is safe for concurrent use.
func (env *env) revoke(ctx context.Context, id string) error {
	return env.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.RevokeKey(&models.Key{ID: id}, olga.UserID, env.event(models.EventKeyRevoked, id, tx.Now))
		return err
	})
}

func (env *env) event(kind models.EventType, keyID string, at int64) models.Event {
	return models.Event{CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, ID: env.ids.Next(models.EventIDPrefix, time.UnixMicro(at)),
		Type: kind, Outcome: models.OutcomeAllowed, At: at, ActorUserID: olga.UserID, KeyID: keyID}
}

// update changes rows behind the store's back.
func (env *env) update(assignments string, values ...any) error {
	driver, source := "pgx", env.url
	if path, ok := strings.CutPrefix(env.url, "sqlite:"); ok {
		driver, source = "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	_, err = db.ExecContext(env.t.Context(), "UPDATE ai_keys SET "+assignments, values...)
	return err
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

// requireOpens checks that every key but the unreadable ones opens to its own secret and the canary to its value, and that each
// row names the KEK of its envelope. It returns how many of them, the canary included, are not under the sealer's primary KEK.
func (env *env) requireOpens(s sealer.Sealer, unreadable ...string) (left int) {
	env.t.Helper()
	primary, err := s.PrimaryKEK(env.t.Context())
	require.NoError(env.t, err)
	rows := env.rows()
	require.Len(env.t, rows, len(env.secrets))
	for _, k := range rows {
		if slices.Contains(unreadable, k.ID) {
			continue
		}
		secret, err := s.Open(env.t.Context(), bindingOf(k), k.Envelope)
		require.NoError(env.t, err, k.ID)
		require.Equal(env.t, env.secrets[k.ID], string(secret.Reveal()))
		require.Equal(env.t, k.KEKID, kekOf(k))
		if k.KEKID != primary {
			left++
		}
	}
	require.Equal(env.t, env.canary, env.openCanary(s))
	if row, err := env.Canary(env.t.Context()); err != nil || row.KEKID != primary {
		left++
	}
	return left
}

// run runs a job to completion.
func (env *env) run(s sealer.Sealer) Result {
	env.t.Helper()
	result, err := New(Config{Store: env.Store, Sealer: s}).Run(env.t.Context())
	require.NoError(env.t, err)
	return result
}

// errDenied is the error that secrets-svc's client returns for a refused call.
var errDenied = fmt.Errorf("%w: %w", sealer.ErrUnavailable, remote.ErrNotAllowed)

// withoutOpen returns a sealer with the right to re-wrap but not to open.
func withoutOpen(s sealer.Sealer) sealer.Sealer {
	return sealertest.Fake{Sealer: s, OpenFunc: func(context.Context, sealer.Binding, []byte) (sealer.Secret, error) {
		return sealer.Secret{}, errDenied
	}}
}

// fakeStore is a store with another Rewrap.
type fakeStore struct {
	Store
	rewrap func([]models.Rewrapping) ([]string, error)
}

func (s fakeStore) Rewrap(_ context.Context, batch []models.Rewrapping) ([]string, error) {
	return s.rewrap(batch)
}

// fakeCounts is a store with another KeysByKEK.
type fakeCounts struct {
	Store
	keysByKEK func() (map[string]int64, error)
}

func (s fakeCounts) KeysByKEK(context.Context) (map[string]int64, error) { return s.keysByKEK() }
