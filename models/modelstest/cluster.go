package modelstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// startTimeout bounds one start, crash recovery included, on a busy machine.
	startTimeout = 60 * time.Second
	// stopTimeout is how long a shutdown may take before the cluster is killed.
	stopTimeout = 30 * time.Second
	// maxConnections is the cluster's limit over all of its databases.
	maxConnections = 200
	// logTail is how many bytes of the server's log a failure shows.
	logTail = 2000
	// dirPrefix begins the name of each cluster's folder; the id of the process that owns it follows.
	dirPrefix = "aikeys-pg-"
	// superuser owns the cluster and is the user of every URL.
	superuser = "postgres"
)

// StopMode is a way to shut a cluster down: the signal for its postmaster
// (https://www.postgresql.org/docs/15/server-shutdown.html).
type StopMode syscall.Signal

const (
	// Fast ends the sessions, rolls their transactions back and writes a checkpoint.
	Fast = StopMode(syscall.SIGINT)
	// Immediate ends the sessions and leaves recovery to the next start.
	Immediate = StopMode(syscall.SIGQUIT)
)

// Cluster is a PostgreSQL server of one test, empty at first, on a loopback port and a unix socket. It keeps its port
// and its data over Stop, Kill and Start. It ends with the test, and with the process, however the process ends. Its
// methods are for one goroutine at a time.
type Cluster struct {
	sandbox  // its folder holds data/, log and the socket
	port     int
	settings []string

	postmaster *os.Process
	exited     chan struct{} // closed once the postmaster has been waited for
}

// StartCluster starts a cluster, with server parameters such as "autovacuum=off", and removes it when the test ends.
func StartCluster(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	return start(t, (*Cluster).create, settings...)
}

func start(t testing.TB, fill func(*Cluster) error, settings ...string) *Cluster {
	t.Helper()
	c, err := newCluster(fill, settings...)
	if err != nil {
		t.Fatalf("modelstest: %v", err)
	}
	t.Cleanup(func() {
		if err := c.remove(Immediate); err != nil {
			t.Errorf("modelstest: %v", err)
		}
	})
	return c
}

// URL returns the URL of a database over TCP; a new cluster has "postgres". The URL stays valid over Stop, Kill and
// Start.
func (c *Cluster) URL(db string) string {
	u := c.baseURL(db)
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))
	u.RawQuery = "sslmode=disable"
	return u.String()
}

// SocketURL is URL over the unix socket.
func (c *Cluster) SocketURL(db string) string {
	u := c.baseURL(db)
	u.RawQuery = url.Values{"host": {c.dir}, "port": {strconv.Itoa(c.port)}}.Encode()
	return u.String()
}

func (c *Cluster) baseURL(db string) url.URL {
	return url.URL{Scheme: "postgres", User: url.UserPassword(superuser, c.password), Path: "/" + db}
}

// Stop shuts the cluster down and waits until it is down; Start brings it back. A shutdown that takes longer than 30 s
// is an error, and the cluster is then killed. Stopping a stopped cluster does nothing.
func (c *Cluster) Stop(mode StopMode) error {
	if c.postmaster == nil {
		return nil
	}
	if err := c.postmaster.Signal(syscall.Signal(mode)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	select {
	case <-c.exited:
		c.postmaster = nil
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("PostgreSQL did not stop within %s", stopTimeout), c.Kill())
	}
}

// Kill ends every process of the cluster with SIGKILL, as the kernel's OOM killer would, and waits
// until they are gone. Start recovers what was committed.
func (c *Cluster) Kill() error {
	if c.postmaster == nil {
		return nil
	}
	// While the postmaster is stopped, it neither forks nor reacts to the loss of its children. Errors are ignored,
	// because a process that has already ended can't be signalled.
	_ = c.postmaster.Signal(syscall.SIGSTOP)
	children := childrenOf(c.postmaster.Pid)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = c.postmaster.Kill()
	<-c.exited
	c.postmaster = nil
	return waitGone(children, stopTimeout)
}

// Start starts a cluster that was stopped or killed, on its port and its data, and waits until it takes connections.
func (c *Cluster) Start() error {
	if c.postmaster != nil {
		return errors.New("the cluster is running")
	}
	if err := c.launch(); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	if err := c.awaitReady(); err != nil {
		return errors.Join(fmt.Errorf("starting PostgreSQL: %w; its log ends:\n%s", err, c.logTail("log")), c.Kill())
	}
	return nil
}

// newCluster makes a cluster with the data that fill provides, and starts it. It does not repeat a failed start: the port was free,
// so a second attempt would fail too.
func newCluster(fill func(*Cluster) error, settings ...string) (*Cluster, error) {
	s, err := newSandbox()
	if err != nil {
		return nil, err
	}
	c := &Cluster{sandbox: s, settings: settings}
	if err = fill(c); err == nil {
		c.port, err = freePort()
	}
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	return c, nil
}

// create runs initdb.
func (c *Cluster) create() error {
	passwordFile := filepath.Join(c.dir, "password")
	if err := c.write(passwordFile, c.password); err != nil {
		return err
	}
	initdb := c.program("initdb", "--pgdata="+c.dataDir(), "--username="+superuser, "--pwfile="+passwordFile,
		"--auth=md5", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// program prepares one of PostgreSQL's programs.
func (c *Cluster) program(name string, args ...string) *osexec.Cmd {
	return c.command(filepath.Join(c.bin, name), args...)
}

// launch starts the postmaster.
func (c *Cluster) launch() error {
	args := []string{"-D", c.dataDir(), "-p", strconv.Itoa(c.port), "-k", c.dir, "-h", "127.0.0.1"}
	for _, s := range append([]string{
		"max_connections=" + strconv.Itoa(maxConnections),
		"fsync=off",                       // what the server wrote is in the kernel's cache, and survives Kill; no test stops the kernel
		"dynamic_shared_memory_type=mmap", // in the data folder, so that Kill leaves nothing in /dev/shm
	}, c.settings...) {
		args = append(args, "-c", s)
	}
	cmd := c.program("postgres", args...)
	exited, err := c.start(cmd, "log")
	if err == nil {
		c.postmaster, c.exited = cmd.Process, exited
	}
	return err
}

func (c *Cluster) awaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.exited:
			return errors.New("the server exited")
		case <-ctx.Done():
			return fmt.Errorf("no connection within %s: %w", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// remove ends the cluster and deletes its folder.
func (c *Cluster) remove(mode StopMode) error {
	return errors.Join(c.Stop(mode), os.RemoveAll(c.dir))
}

func (c *Cluster) dataDir() string { return filepath.Join(c.dir, "data") }
