// Package modelstest gives tests the databases that models runs on: PostgreSQL here, started from the binaries on the
// machine and never from a container. A test process starts one cluster, and each test gets an empty database of its
// own on it; a test of faults starts a cluster that it may kill.
//
// A missing PostgreSQL fails the test and never skips it, so a green run has tested what it claims. Only tests and
// other …test packages may import it; of ours it may import models alone.
package modelstest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// EnvPostgresURL names the variable that holds the URL of a PostgreSQL server to test on in place of a cluster of
// ours. Its user must be allowed to create databases.
const EnvPostgresURL = "TEST_POSTGRES_URL"

// adminTimeout bounds creating or dropping one database.
const adminTimeout = 30 * time.Second

// shared is the process's one cluster. It has to be a global: tests have no owner in common but their process. Main
// is its only writer.
var shared lazyCluster

// Main runs the tests of a package that uses Postgres, then stops the shared cluster, and returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(modelstest.Main(m)) }
func Main(m *testing.M) int {
	shared.open()
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "modelstest:", err)
		return max(code, 1)
	}
	return code
}

// Postgres returns the URL of a fresh, empty database and drops it when the test ends. The package's TestMain has to
// call Main.
//
// The shared cluster runs without fsync, which only a crash of the whole machine could tell: commits survive the
// kill of any process. Measure commits, and take the server away, on a cluster of your own (StartCluster).
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := shared.url()
	if err != nil {
		t.Fatalf("modelstest: %v", err)
	}
	name := "aikeys_test_" + randomHex(8)
	database, err := withDatabase(server, name)
	if err != nil {
		t.Fatalf("modelstest: %v", err)
	}
	// file_copy (PostgreSQL 15 and later) takes 20 ms where the default, through the log, takes 110.
	if err := exec(t.Context(), server, "CREATE DATABASE "+name+" STRATEGY file_copy"); err != nil {
		t.Fatalf("modelstest: creating a database: %v", err)
	}
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := exec(context.Background(), server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("modelstest: dropping a database: %v", err)
		}
	})
	return database
}

// lazyCluster starts a cluster when it is first asked for: most test runs of a package need none.
type lazyCluster struct {
	mu      sync.Mutex
	opened  bool
	cluster *Cluster
	err     error // why the first start failed; it isn't tried again
}

func (l *lazyCluster) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened = true
}

func (l *lazyCluster) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened = false
	if l.cluster == nil {
		return nil
	}
	cluster := l.cluster
	l.cluster = nil
	return cluster.remove(Fast)
}

// url returns the URL of the server that tests share.
func (l *lazyCluster) url() (string, error) {
	if server := os.Getenv(EnvPostgresURL); server != "" {
		return server, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.opened {
		return "", fmt.Errorf("the package needs func TestMain(m *testing.M) { os.Exit(modelstest.Main(m)) }")
	}
	if l.cluster == nil && l.err == nil {
		l.cluster, l.err = newCluster((*Cluster).create, WithoutFsync())
	}
	if l.err != nil {
		return "", l.err
	}
	return l.cluster.URL("postgres"), nil
}

// withDatabase returns the server's URL with another database in its path.
func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "", fmt.Errorf("%s is not a postgres:// URL", EnvPostgresURL) // err would quote it, password and all
	}
	u.Path = "/" + name
	return u.String(), nil
}

func exec(ctx context.Context, server, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails: crypto/rand.Read ends the program instead
	return hex.EncodeToString(b)
}
