package modelstest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// sweep removes the folders of clusters whose processes were killed: some 40 MB each.
func sweep(temp string) {
	dirs, _ := filepath.Glob(filepath.Join(temp, dirPrefix+"*-*")) // fails only on a bad pattern
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // another user's is that user's to remove
		}
	}
}

// prepare hands the folder to the server's user, fills it and picks the port.
func (c *Cluster) prepare(fill func(*Cluster) error) error {
	if c.credential != nil {
		if err := os.Chown(c.dir, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
			return err
		}
	}
	err := fill(c)
	if err == nil {
		c.port, err = freePort()
	}
	return err
}

// create runs initdb.
func (c *Cluster) create() error {
	passwordFile := filepath.Join(c.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(c.password), 0o600); err != nil {
		return err
	}
	if c.credential != nil {
		if err := os.Chown(passwordFile, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
			return err
		}
	}
	initdb := c.command("initdb", "--pgdata="+c.dataDir(), "--username="+superuser, "--pwfile="+passwordFile,
		"--auth=md5", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// command prepares one of the server's programs: as the server's user, in a folder which that user may enter, and
// without the PG* variables of the environment.
func (c *Cluster) command(name string, args ...string) *osexec.Cmd {
	//nolint:gosec,noctx // Our own arguments to the server's programs; Stop and Kill end them, not a context.
	cmd := osexec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.credential}
	return cmd
}

// launch starts the postmaster and the goroutine that waits for it.
func (c *Cluster) launch() error {
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	args := []string{"-D", c.dataDir(), "-p", strconv.Itoa(c.port), "-k", c.dir, "-h", "127.0.0.1"}
	settings := append([]string{
		"max_connections=" + strconv.Itoa(maxConnections),
		"dynamic_shared_memory_type=mmap", // in the data folder, so that Kill leaves nothing in /dev/shm
	}, c.settings...)
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	cmd := c.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	dieWithParent(cmd.SysProcAttr)

	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The signal that dieWithParent asks for comes when the starting *thread* ends: keep it until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it exits is for Stop, Kill and awaitReady to judge
		}
		_ = log.Close()
	}()
	if err := <-started; err != nil {
		return err
	}
	c.postmaster, c.exited = cmd.Process, exited
	return nil
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

// freePort returns a port that nobody listens on, below the range that kernels give to outgoing connections (Linux:
// from 32768): up there, a client that dials a stopped cluster can be given the cluster's own port, and keep it.
func freePort() (int, error) {
	const low, high = 15000, 30000
	for range 100 {
		port := low + rand.IntN(high-low) //nolint:gosec // A port, not a secret.
		//nolint:noctx // Listening on loopback takes no time.
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return port, listener.Close()
		}
	}
	return 0, errors.New("no free port found")
}
