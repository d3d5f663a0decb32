// Package modelstest gives tests the databases that models runs on. It starts PostgreSQL from the machine's binaries,
// never from a container. Each test process starts one cluster, and each test gets its own storage there. A test of
// faults starts its own cluster, which it may kill.
//
// Without PostgreSQL, tests fail and are not skipped, so a successful run has really tested PostgreSQL. Only tests and
// other …test packages may import modelstest. From this module, modelstest imports only models and packages below
// models.
package modelstest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// EnvPostgresURL names the variable with the URL of a PostgreSQL server to use instead of starting a cluster. Its user must be
// allowed to create databases.
const EnvPostgresURL = "TEST_POSTGRES_URL"

// adminTimeout bounds creating or dropping one database.
const adminTimeout = 30 * time.Second

// shared starts the process's one cluster on first use, since many test runs need none. It is a global because tests have
// nothing in common but their process.
var shared = sync.OnceValues(func() (*Cluster, error) {
	var err error
	started, err = newCluster((*Cluster).create)
	return started, err
})

// started is the shared cluster once there is one. isMain reports whether Main, which removes it, is running.
var (
	started *Cluster
	isMain  bool
)

// Main runs the tests of a package that uses Postgres, and exits. It stops the shared cluster, calls stops, and fails if a
// goroutine is left over:
//
//	func TestMain(m *testing.M) { modelstest.Main(m) }
func Main(m *testing.M, stops ...func()) {
	isMain = true
	code := m.Run()
	var err error
	if started != nil {
		err = started.remove(Fast)
	}
	for _, stop := range stops {
		stop()
	}
	if code == 0 {
		err = errors.Join(err, goleak.Find())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "modelstest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// sharedURL returns the URL of the server that tests share.
func sharedURL() (string, error) {
	if server := os.Getenv(EnvPostgresURL); server != "" {
		return server, nil
	}
	if !isMain {
		return "", errors.New("the package needs func TestMain(m *testing.M) { modelstest.Main(m) }")
	}
	cluster, err := shared()
	if err != nil {
		return "", err
	}
	return cluster.URL("postgres"), nil
}

// Postgres returns the URL of a new, empty database and drops it when the test ends. The package's TestMain must call
// Main. A test that stops its server must use StartCluster instead.
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := sharedURL()
	require.NoError(t, err)
	name := "aikeys_test_" + randomHex(8)
	database, err := withDatabase(server, name)
	require.NoError(t, err)
	// file_copy (PostgreSQL 15 and later) takes 20 ms where the default, through the log, takes 110.
	require.NoError(t, exec(t.Context(), server, "CREATE DATABASE "+name+" STRATEGY file_copy"))
	t.Cleanup(func() {
		// The test's own context has ended by now.
		require.NoError(t, exec(context.Background(), server, "DROP DATABASE "+name+" WITH (FORCE)"))
	})
	return database
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
