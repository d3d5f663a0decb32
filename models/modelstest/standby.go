package modelstest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// StartStandby starts a cluster that follows primary, and removes it when the test ends.
func StartStandby(t testing.TB, primary *Cluster) *Cluster {
	t.Helper()
	return start(t, func(c *Cluster) error {
		c.password = primary.password
		backup := c.command("pg_basebackup", "--pgdata="+c.dataDir(), "--dbname="+primary.SocketURL("postgres"), "--checkpoint=fast",
			"--write-recovery-conf", "--no-sync")
		if out, err := backup.CombinedOutput(); err != nil {
			return fmt.Errorf("pg_basebackup: %w\n%s", err, out)
		}
		return nil
	})
}

// Promote makes a standby the primary, which begins a new timeline.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	if out, err := c.command("pg_ctl", "promote", "--pgdata="+c.dataDir(), "--wait").CombinedOutput(); err != nil {
		t.Fatalf("pg_ctl promote: %v\n%s", err, out)
	}
}

// Follow makes a cluster that is stopped a standby of primary from its next start on. It serves reads as of where it stopped if its
// history has diverged from primary's.
func (c *Cluster) Follow(t testing.TB, primary *Cluster) {
	t.Helper()
	for name, text := range map[string]string{
		"standby.signal": "", "postgresql.auto.conf": "primary_conninfo = '" + primary.SocketURL("postgres") + "'\n",
	} {
		path := filepath.Join(c.dataDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.credential != nil {
			if err := os.Chown(path, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
