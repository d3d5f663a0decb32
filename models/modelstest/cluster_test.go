package modelstest

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// ownClusterForever starts a cluster, prints its postmaster's id and its folder, and waits to be killed.
func ownClusterForever() {
	c, err := newCluster((*Cluster).create)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.postmaster.Pid, c.dir)
	select {}
}

func TestClusterKeepsRowsAndURLOverRestarts(t *testing.T) {
	c := StartCluster(t)
	database := c.URL("postgres")
	execute(t, database, "CREATE TABLE keys (id text)")
	down := []struct {
		name string
		stop func() error
	}{
		{"killed", c.Kill},
		{"stopped fast", func() error { return c.Stop(Fast) }},
		{"stopped at once", func() error { return c.Stop(Immediate) }},
		{"stopped smartly", func() error { return c.Stop(Smart) }},
	}
	for i, tc := range down {
		t.Run(tc.name, func(t *testing.T) {
			execute(t, database, "INSERT INTO keys VALUES ('byok_1')")
			require.NoError(t, tc.stop())
			require.Error(t, exec(t.Context(), database, "SELECT 1"), "nothing may listen while the cluster is down")
			require.NoError(t, tc.stop(), "ending what has ended does nothing")
			require.NoError(t, c.Start())
			require.Equal(t, i+1, query[int](t, database, "SELECT count(*) FROM keys"))
		})
	}
}

func TestKill(t *testing.T) {
	c := StartCluster(t)
	execute(t, c.URL("postgres"), "CREATE TABLE keys (id text)")
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // broken by then
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO keys VALUES ('byok_1')")
	require.NoError(t, err)

	backend := query[int](t, c.URL("postgres"), "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'")
	require.NoError(t, c.Kill())
	require.NoError(t, waitGone([]int{backend}, 0), "the backend runs on")
	require.Error(t, tx.Commit(t.Context()))
	require.NoError(t, c.Start())
	require.Equal(t, 0, query[int](t, c.URL("postgres"), "SELECT count(*) FROM keys"))
}

func TestStartCluster(t *testing.T) {
	c := StartCluster(t)
	t.Run("commits are durable", func(t *testing.T) {
		require.Equal(t, "on", query[string](t, c.URL("postgres"), "SHOW fsync"))
		require.Equal(t, "on", query[string](t, c.URL("postgres"), "SHOW synchronous_commit"))
	})
	t.Run("takes 200 connections, over its socket too", func(t *testing.T) {
		require.Equal(t, "200", query[string](t, c.SocketURL("postgres"), "SHOW max_connections"))
	})
	t.Run("asks for the password", func(t *testing.T) {
		stranger := Cluster{dir: c.dir, port: c.port, password: "guess"}
		require.ErrorContains(t, exec(t.Context(), stranger.URL("postgres"), "SELECT 1"), "password")
		require.ErrorContains(t, exec(t.Context(), stranger.SocketURL("postgres"), "SELECT 1"), "password")
	})
	t.Run("does not start twice", func(t *testing.T) {
		require.ErrorContains(t, c.Start(), "running")
	})
}

func TestClusterOptions(t *testing.T) {
	t.Run("change the server's settings", func(t *testing.T) {
		c := StartCluster(t, WithoutFsync(), WithSetting("statement_timeout", "7s"))
		require.Equal(t, "off", query[string](t, c.URL("postgres"), "SHOW fsync"))
		require.Equal(t, "7s", query[string](t, c.URL("postgres"), "SHOW statement_timeout"))
	})
	t.Run("that the server refuses are an error with its log", func(t *testing.T) {
		_, err := newCluster((*Cluster).create, WithSetting("no_such_setting", "1"))
		require.ErrorContains(t, err, "unrecognized configuration parameter")
	})
}

func TestSweepRemovesFoldersOfKilledProcesses(t *testing.T) {
	gone := osexec.CommandContext(t.Context(), "true")
	require.NoError(t, gone.Run())
	temp := t.TempDir()
	folder := func(owner int) string {
		dir := filepath.Join(temp, dirPrefix+strconv.Itoa(owner)+"-1")
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "data"), 0o700))
		return dir
	}
	left, ours := folder(gone.Process.Pid), folder(os.Getpid())
	sweep(temp)
	require.NoDirExists(t, left)
	require.DirExists(t, ours)
}
