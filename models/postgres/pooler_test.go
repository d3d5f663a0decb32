package postgres_test

import (
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

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// startPgBouncer starts PgBouncer in front of a database until the test ends, and returns the URL of the database through it.
func startPgBouncer(t *testing.T, server, mode string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	require.NoError(t, err, "PgBouncer is needed: apt-get install pgbouncer")
	u, err := url.Parse(server)
	require.NoError(t, err)
	password, _ := u.User.Password()
	folder, err := os.MkdirTemp("", "aikeys-pgbouncer-") //nolint:usetesting // its user may not enter the test's folders
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
		args = []string{"-u", "postgres", file} // it refuses to run as root
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
