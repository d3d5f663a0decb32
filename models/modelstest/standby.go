package modelstest

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
)

// Address is a stable address in front of clusters, like a proxy or a virtual IP address. An existing connection stays
// with its cluster when the address moves to another.
type Address struct {
	cluster  atomic.Pointer[Cluster]
	listener net.Listener
}

// NewAddress returns an address that leads to a cluster. It ends with the test.
func NewAddress(t testing.TB, c *Cluster) *Address {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	a := &Address{listener: listener}
	a.MoveTo(c)
	go a.serve()
	return a
}

// MoveTo makes the address lead to another cluster.
func (a *Address) MoveTo(c *Cluster) { a.cluster.Store(c) }

// URL returns the URL of a database of the cluster to which the address leads. All clusters must have the same password.
func (a *Address) URL(db string) string {
	u := a.cluster.Load().baseURL(db)
	u.Host = a.listener.Addr().String()
	u.RawQuery = url.Values{"sslmode": {"disable"}}.Encode()
	return u.String()
}

func (a *Address) serve() {
	for {
		client, err := a.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(a.cluster.Load().port))) //nolint:noctx // loopback
		if err != nil {
			_ = client.Close()
			continue
		}
		for from, to := range map[net.Conn]net.Conn{client: server, server: client} {
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
		}
	}
}

// StartStandby starts a cluster that follows primary, and removes it when the test ends.
func StartStandby(t testing.TB, primary *Cluster) *Cluster {
	t.Helper()
	return start(t, func(c *Cluster) error {
		c.password = primary.password
		backup := c.program("pg_basebackup", "--pgdata="+c.dataDir(), "--dbname="+primary.SocketURL("postgres"), "--checkpoint=fast",
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
	if out, err := c.program("pg_ctl", "promote", "--pgdata="+c.dataDir(), "--wait").CombinedOutput(); err != nil {
		t.Fatalf("pg_ctl promote: %v\n%s", err, out)
	}
}

// Follow makes a stopped cluster a standby of primary when it starts again. If the cluster's history has diverged from
// primary's, the cluster serves the data that it had when it stopped.
func (c *Cluster) Follow(t testing.TB, primary *Cluster) {
	t.Helper()
	for name, text := range map[string]string{
		"standby.signal": "", "postgresql.auto.conf": "primary_conninfo = '" + primary.SocketURL("postgres") + "'\n",
	} {
		if err := c.write(filepath.Join(c.dataDir(), name), text); err != nil {
			t.Fatal(err)
		}
	}
}
