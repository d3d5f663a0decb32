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

// world is an installation: a database, and a keyset that opens what is in it.
type world struct {
	*models.Store
	t       *testing.T
	url     string
	keyset  string
	sealer  sealer.Sealer
	ids     models.IDs
	db      *sql.DB // see database
	canary  []byte
	mu      sync.Mutex
	secrets map[string]string // by key id
}

// each runs a test on both databases at once, with keys in them.
func each(t *testing.T, keys int, test func(t *testing.T, w *world)) {
	t.Helper()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		test(t, newWorld(t, e, keys))
	})
}

func newWorld(t *testing.T, e modelstest.Engine, keys int) *world {
	t.Helper()
	w := &world{t: t, url: e.URL(t), keyset: filepath.Join(t.TempDir(), "keyset.json"), secrets: map[string]string{}}
	w.Store = modelstest.OpenStore(t, w.url, models.Options{})
	_, err := w.Migrate(t.Context())
	require.NoError(t, err)
	w.sealer = open(t, w.keyset)
	value, err := keysetcheck.New(w.Store, w.sealer).Value(t.Context())
	require.NoError(t, err)
	w.canary = value
	require.NoError(t, w.Transact(t.Context(), func(tx *models.Tx) error {
		if err := tx.EnsureProject(olga.CustomerID, olga.ProjectID); err != nil {
			return err
		}
		_, err := tx.SetMember(olga.CustomerID, olga.ProjectID, olga.UserID, models.RoleOwner)
		return err
	}))
	w.registerMany(keys)
	return w
}

func open(t testing.TB, keyset string) sealer.Sealer {
	t.Helper()
	s, err := local.Open(keyset)
	require.NoError(t, err)
	return s
}

// rotate gives the keyset a new primary KEK, and opens it anew.
func (w *world) rotate() {
	w.t.Helper()
	id, err := local.AddKEK(w.keyset)
	require.NoError(w.t, err)
	require.NoError(w.t, local.SetPrimary(w.keyset, id))
	w.sealer = open(w.t, w.keyset)
}

// registerMany stores keys, sealed as the service would.
func (w *world) registerMany(keys int) {
	w.t.Helper()
	var group errgroup.Group
	group.SetLimit(16)
	for range keys {
		group.Go(func() error { return w.register(w.sealer) })
	}
	require.NoError(w.t, group.Wait())
}

func secretOf(id string) string { return "sk-secret-of-" + id }

// register stores one key. Any goroutine may.
func (w *world) register(s sealer.Sealer) error {
	now := time.Now()
	k := models.Key{ID: w.ids.Next(models.KeyIDPrefix, now), CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, Provider: "openai",
		DisplaySuffix: "wxyz", Version: 1, CreatedAt: now.UnixMicro(), CreatedBy: olga.UserID}
	k.Name = k.ID
	envelope, err := s.Seal(w.t.Context(), bindingOf(k), sealer.NewSecret([]byte(secretOf(k.ID))))
	if err != nil {
		return err
	}
	k.Envelope, k.KEKID = envelope.Bytes, envelope.KEKID
	_, err = w.RegisterKey(w.t.Context(), olga, models.RoleOwner, models.Registration{
		Key: k, Event: w.event(models.EventKeyRegistered, k.ID, k.CreatedAt)}, k.CreatedAt)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[k.ID] = secretOf(k.ID)
	return nil
}

func (w *world) revoke(id string) {
	w.t.Helper()
	require.NoError(w.t, w.tryRevoke(w.t.Context(), id))
}

// tryRevoke revokes a key, with the event that says so. Any goroutine may.
func (w *world) tryRevoke(ctx context.Context, id string) error {
	return w.Transact(ctx, func(tx *models.Tx) error {
		if _, err := tx.RevokeKey(&models.Key{ID: id}, olga.UserID); err != nil {
			return err
		}
		return tx.AppendEvent(w.event(models.EventKeyRevoked, id, tx.Now))
	})
}

// event is the event of an act about a key.
func (w *world) event(kind models.EventType, keyID string, at int64) models.Event {
	return models.Event{CustomerID: olga.CustomerID, ProjectID: olga.ProjectID, ID: w.ids.Next(models.EventIDPrefix, time.UnixMicro(at)),
		Type: kind, Outcome: models.OutcomeAllowed, At: at, ActorUserID: olga.UserID, KeyID: keyID}
}

// database is a way into it past the store.
func (w *world) database() *sql.DB {
	w.t.Helper()
	if w.db == nil {
		driver, source := "pgx", w.url
		if path, ok := strings.CutPrefix(w.url, "sqlite:"); ok {
			driver, source = "sqlite", "file:"+path+"?_pragma=busy_timeout(10000)"
		}
		var err error
		w.db, err = sql.Open(driver, source)
		require.NoError(w.t, err)
		w.t.Cleanup(func() { require.NoError(w.t, w.db.Close()) })
	}
	return w.db
}

// replace puts an envelope into a row behind everybody's back.
func (w *world) replace(id string, envelope []byte, kekID string) {
	w.t.Helper()
	k := w.row(id)
	stored, err := w.Rewrap(w.t.Context(), []models.Rewrapping{{KeyID: id, Version: k.Version, Old: k.Envelope, New: envelope, KEKID: kekID}})
	require.NoError(w.t, err)
	require.Len(w.t, stored, 1)
}

func (w *world) row(id string) models.Key {
	w.t.Helper()
	k, err := w.SealedKey(w.t.Context(), id)
	require.NoError(w.t, err)
	return k
}

func (w *world) rows() []models.Key {
	w.t.Helper()
	keys, err := w.SealedKeys(w.t.Context(), "", 100_000)
	require.NoError(w.t, err)
	return keys
}

func bindingOf(k models.Key) sealer.Binding {
	return sealer.Binding{CustomerID: k.CustomerID, ProjectID: k.ProjectID, KeyID: k.ID, Provider: k.Provider, Version: k.Version}
}

// requireAllOpen checks that each key opens to its own secret, the canary to its value, and that rows name the KEK that
// their envelopes do.
func (w *world) requireAllOpen(s sealer.Sealer) {
	w.t.Helper()
	rows := w.rows()
	require.Len(w.t, rows, len(w.secrets))
	for _, k := range rows {
		secret, err := s.Open(w.t.Context(), bindingOf(k), k.Envelope)
		require.NoError(w.t, err, k.ID)
		require.Equal(w.t, w.secrets[k.ID], string(secret.Reveal()))
		named, err := sealer.KEKIDOf(k.Envelope)
		require.NoError(w.t, err)
		require.Equal(w.t, named, k.KEKID)
	}
	value, err := keysetcheck.New(w.Store, s).Value(w.t.Context())
	require.NoError(w.t, err)
	require.Equal(w.t, w.canary, value)
}

// requireDone checks that everything readable is under the sealer's primary KEK, and nothing under another but what is
// given.
func (w *world) requireDone(s sealer.Sealer, unreadable ...string) {
	w.t.Helper()
	primary, err := s.PrimaryKEK(w.t.Context())
	require.NoError(w.t, err)
	for _, k := range w.rows() {
		if k.KEKID != primary {
			require.Contains(w.t, unreadable, k.ID)
		}
	}
	row, err := w.Canary(w.t.Context())
	require.NoError(w.t, err)
	require.Equal(w.t, primary, row.KEKID)
}

// run runs a job to its end.
func (w *world) run(s sealer.Sealer) rewrap.Result {
	w.t.Helper()
	result, err := rewrap.New(rewrap.Config{Store: w.Store, Sealer: s}).Run(w.t.Context())
	require.NoError(w.t, err)
	return result
}
