package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/models/postgres"
)

func TestMain(m *testing.M) { modelstest.Main(m) }

// failover is a primary behind an address.
type failover struct {
	primary *modelstest.Cluster
	address *modelstest.Address
	store   *models.Store
}

func newFailover(t *testing.T) *failover {
	f := &failover{primary: modelstest.StartCluster(t)}
	f.address = modelstest.NewAddress(t, f.primary)
	f.store = modelstest.OpenStore(t, f.address.URL("postgres"), models.Options{Timeout: 2 * time.Second})
	_, err := f.store.Migrate(t.Context())
	require.NoError(t, err)
	return f
}

func (f *failover) commit(ctx context.Context, id string) error {
	return f.store.Transact(ctx, func(tx *models.Tx) error {
		return tx.AppendEvent(models.Event{CustomerID: "c", ProjectID: "p", ID: id, Type: models.EventPolicySet, Outcome: models.OutcomeAllowed})
	})
}

func (f *failover) position(t *testing.T) position.Position {
	at, err := f.store.Position(t.Context())
	require.NoError(t, err)
	return at
}

// requireReadOnly requires that the store refuses to use the server at the address. Before that, calls may fail on
// connections to a stopped server.
func (f *failover) requireReadOnly(t *testing.T, since position.Position) {
	t.Helper()
	for what, call := range map[string]func(context.Context) error{
		"ping":  f.store.Ping,
		"write": func(ctx context.Context) error { return f.commit(ctx, "evt_no") },
		"changes": func(ctx context.Context) error {
			_, _, err := f.store.Changes(ctx, since, 10)
			return err
		},
		"fetch": func(ctx context.Context) error {
			_, err := f.store.Fetch(ctx, "dp_1", models.Caller{CustomerID: "c", ProjectID: "p", UserID: "u"}, "openai", 0)
			return err
		},
		"fetch by id": func(ctx context.Context) error {
			_, _, err := f.store.FetchByID(ctx, "dp_1", "byok_1", 0)
			return err
		},
	} {
		var err error
		for range 20 {
			err = call(t.Context())
			require.ErrorIs(t, err, models.ErrUnavailable, what)
			if errors.Is(err, models.ErrReadOnly) {
				break
			}
		}
		require.ErrorIs(t, err, models.ErrReadOnly, what)
	}
}

// requireRecovery requires that the store recovers by itself: it can store an event, and the event is the only change
// since a position.
func (f *failover) requireRecovery(t *testing.T, since position.Position) (now position.Position) {
	t.Helper()
	require.Eventually(t, func() bool { return f.commit(t.Context(), "evt_new") == nil }, 5*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		changes, at, err := f.store.Changes(t.Context(), since, 10)
		now = at
		return err == nil && len(changes) == 1
	}, 5*time.Second, 10*time.Millisecond)
	return now
}

func TestOldPrimaryIsNotBelieved(t *testing.T) {
	t.Run("that came back as a standby, and the store goes on with the new one", func(t *testing.T) {
		t.Parallel()
		f := newFailover(t)
		require.NoError(t, f.commit(t.Context(), "evt_1"))
		before := f.position(t)
		standby := modelstest.StartStandby(t, f.primary)
		require.NoError(t, f.primary.Stop(modelstest.Fast))
		standby.Promote(t)
		f.primary.Follow(t, standby)
		require.NoError(t, f.primary.Start())
		f.requireReadOnly(t, before)

		f.address.MoveTo(standby)
		now := f.requireRecovery(t, before) // nothing that the new primary committed is missed
		require.False(t, now.SameTimeline(before), "a position of one primary is not taken for one of another")
	})
	t.Run("that lost a commit of which the new primary knows nothing", func(t *testing.T) {
		t.Parallel()
		f := newFailover(t)
		standby := modelstest.StartStandby(t, f.primary)
		require.NoError(t, standby.Stop(modelstest.Fast))
		for range 5 {
			require.NoError(t, f.commit(t.Context(), "evt_lost"+time.Now().String()))
		}
		before := f.position(t)
		require.NoError(t, f.primary.Stop(modelstest.Immediate))
		require.NoError(t, standby.Start())
		standby.Promote(t)
		f.address.MoveTo(standby)
		f.requireRecovery(t, before) // although the first commit of the new primary has a lower xid than the last commit of the old one
	})
	t.Run("that turned read-only with connections open", func(t *testing.T) {
		t.Parallel()
		f := newFailover(t)
		before := f.position(t)
		set := func(value string) {
			conn, err := pgx.Connect(t.Context(), f.primary.URL("postgres"))
			require.NoError(t, err)
			for _, statement := range []string{"ALTER SYSTEM SET default_transaction_read_only = " + value, "SELECT pg_reload_conf()"} {
				_, err = conn.Exec(t.Context(), statement)
				require.NoError(t, err)
			}
			require.NoError(t, conn.Close(t.Context()))
		}
		set("on")
		require.Eventually(t, func() bool { return f.store.Ping(t.Context()) != nil }, 5*time.Second, 10*time.Millisecond)
		f.requireReadOnly(t, before)
		set("off")
		f.requireRecovery(t, before)
	})
}

func TestOpenRefusesURLsThatShowAPassword(t *testing.T) {
	for _, url := range []string{
		"postgres://app:p@ssw0rd@127.0.0.1/aikeys", "postgres://app:48/15@127.0.0.1/aikeys", "postgres://app:48@15/ssw0rd?x@127.0.0.1/aikeys",
		"postgres://app:48%zz15@127.0.0.1/aikeys", "postgres://app:48 15@127.0.0.1:port/aikeys",
	} {
		_, err := database.Open(url, models.Options{})
		require.ErrorContains(t, err, "escaped", url)
		for _, piece := range []string{"48", "15", "p@", "ssw0rd"} {
			require.NotContains(t, err.Error(), piece)
		}
		require.Empty(t, postgres.Name(url))
	}
	require.Equal(t, "postgres://127.0.0.1:1/aikeys", postgres.Name("postgres://app:481516#x?y@127.0.0.1:1/aikeys"))
	require.Equal(t, "postgres://db1:5432,db2:5433/aikeys", postgres.Name("postgres://app:secret@db1,db2:5433/aikeys?sslmode=disable"))
}

func TestOpenRefusesPasswordsThatOthersCanRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwords")
	require.NoError(t, os.WriteFile(file, []byte("*:*:*:*:CANARY"), 0o600))
	open := func(url string) error {
		store, err := database.Open(url, models.Options{})
		if err == nil {
			err = store.Close()
		}
		return err
	}
	byURL := "postgres://app@127.0.0.1/aikeys?passfile=" + file
	require.NoError(t, open(byURL))
	require.NoError(t, os.Chmod(file, 0o644))
	require.ErrorContains(t, open(byURL), "chmod 600")
	t.Setenv("PGPASSFILE", file)
	require.ErrorContains(t, open("postgres://app@127.0.0.1/aikeys"), "chmod 600")
	t.Setenv("PGPASSFILE", os.DevNull)
	require.NoError(t, open("postgres://app@127.0.0.1/aikeys"))
}

func TestOpenRequiresTLSBeyondThisMachine(t *testing.T) {
	for url, refused := range map[string]bool{
		"postgres://app@127.0.0.1/aikeys?sslmode=disable":             false,
		"postgres://app@localhost/aikeys":                             false,
		"postgres://app@/aikeys?host=/run/postgresql":                 false,
		"postgres://app@db.example/aikeys":                            false, // sslmode=prefer, without the attempt in plain text
		"postgres://app@db.example/aikeys?sslmode=require":            false,
		"postgres://app@db.example/aikeys?sslmode=disable":            true,
		"postgres://app@db.example/aikeys?sslmode=allow":              true,
		"postgres://app@127.0.0.1,db.example/aikeys?sslmode=disable":  true,
		"postgres://app@db.example,db2.example/aikeys?sslmode=prefer": false,
	} {
		for _, plaintext := range []bool{false, true} {
			store, err := database.Open(url, models.Options{Plaintext: plaintext})
			if refused && !plaintext {
				require.ErrorContains(t, err, "db.example would be reached without TLS", url)
				continue
			}
			require.NoError(t, err, url)
			require.NoError(t, store.Close())
		}
	}
}

// startPgBouncer starts PgBouncer in front of a database until the test ends, and returns the URL of the database through it.
func startPgBouncer(t *testing.T, server, mode string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	require.NoError(t, err, "PgBouncer is needed: apt-get install pgbouncer")
	u, err := url.Parse(server)
	require.NoError(t, err)
	password, _ := u.User.Password()
	folder, err := os.MkdirTemp("", "aikeys-pgbouncer-") //nolint:usetesting // PgBouncer's user may not enter the test's folders
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	require.NoError(t, os.Chmod(folder, 0o777))
	file := filepath.Join(folder, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `[databases]
* = host=127.0.0.1 port=%s user=%s password=%s
[pgbouncer]
listen_addr =
unix_socket_dir = %s
auth_type = any
pool_mode = %s
`, u.Port(), u.User.Username(), password, folder, mode), 0o644))
	args := []string{file}
	if os.Geteuid() == 0 {
		args = []string{"-u", "postgres", file} // PgBouncer refuses to run as root
	}
	pooler := exec.CommandContext(t.Context(), program, args...)
	require.NoError(t, pooler.Start())
	t.Cleanup(func() { _ = pooler.Process.Kill(); _ = pooler.Wait() })
	require.Eventually(t, func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "unix", filepath.Join(folder, ".s.PGSQL.6432"))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return "postgres://postgres@" + u.Path + "?host=" + folder + "&port=6432"
}

func TestBehindPgBouncer(t *testing.T) {
	for _, mode := range []string{"session", "transaction"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			direct := modelstest.Postgres(t)
			pooled := startPgBouncer(t, direct, mode)
			open := func() *models.Store {
				return modelstest.OpenStore(t, pooled, models.Options{DirectURL: direct})
			}
			var migrations sync.WaitGroup
			for range 10 {
				migrations.Go(func() {
					store, err := database.Open(pooled, models.Options{DirectURL: direct})
					if err == nil {
						_, err = store.Migrate(t.Context())
						err = errors.Join(err, store.Close())
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
			migrations.Wait()
			store := open()
			require.NoError(t, store.CheckNotifications(t.Context()))
			ids, owner := models.IDs{}, models.Caller{CustomerID: "acme", ProjectID: "web", UserID: "olga"}
			require.NoError(t, store.Transact(t.Context(), func(tx *models.Tx) error {
				if err := tx.EnsureProject("acme", "web"); err != nil {
					return err
				}
				_, err := tx.SetMember("acme", "web", "olga", models.RoleOwner)
				return err
			}))
			since, err := store.Position(t.Context())
			require.NoError(t, err)
			var users sync.WaitGroup
			for range 8 {
				users.Go(func() {
					for range 10 {
						id := ids.Next(models.KeyIDPrefix, time.Now())
						if _, err := store.RegisterKey(t.Context(), owner, models.RoleOwner, models.Registration{
							Key: models.Key{ID: id, CustomerID: "acme", ProjectID: "web", Provider: "openai", Name: id, Envelope: []byte("sealed"), Version: 1},
							Event: models.Event{
								CustomerID: "acme", ProjectID: "web", ID: ids.Next(models.EventIDPrefix, time.Now()), KeyID: id,
								Type: models.EventKeyRegistered, Outcome: models.OutcomeAllowed,
							},
						}, 1); err != nil {
							t.Error(err)
						}
						if _, err := store.GetKey(t.Context(), owner, id, 1); err != nil {
							t.Error(err)
						}
					}
				})
			}
			users.Wait()
			changes, _, err := store.Changes(t.Context(), since, 1000)
			require.NoError(t, err)
			require.Len(t, changes, 80)
		})
	}
	t.Run("without the direct URL, a pooler in transaction mode is noticed", func(t *testing.T) {
		t.Parallel()
		pooled := startPgBouncer(t, modelstest.Postgres(t), "transaction")
		store := modelstest.OpenStore(t, pooled, models.Options{Timeout: 2 * time.Second})
		require.Error(t, store.CheckNotifications(t.Context()))
		second := modelstest.OpenStore(t, pooled, models.Options{})
		require.Eventually(t, func() bool {
			return errors.Is(errors.Join(store.Ping(t.Context()), second.Ping(t.Context())), models.ErrPooled)
		}, 10*time.Second, time.Millisecond)
	})
	t.Run("without the direct URL, a pooler in session mode is as good as none", func(t *testing.T) {
		t.Parallel()
		pooled := startPgBouncer(t, modelstest.Postgres(t), "session")
		store := modelstest.OpenStore(t, pooled, models.Options{})
		_, err := store.Migrate(t.Context())
		require.NoError(t, err)
		require.NoError(t, store.CheckNotifications(t.Context()))
	})
}
