package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/lifecycle"
)

const (
	lockSuffix = ".lock"

	lockMode        = 0o600
	groupSocketMode = 0o660
	ownerUmask      = 0o177
	dirMode         = 0o700
	// dialTimeout bounds the attempt to connect to a socket that exists.
	dialTimeout = time.Second
)

// socket is a listener on a unix socket. It holds a lock file, so that two services can't take the socket from each other.
type socket struct {
	net.Listener
	lock *os.File
}

// listenUnix listens on a unix socket at path. It replaces a socket that no process listens on any more, and returns an error
// for anything else at that path: lifecycle.ErrAddressTaken if a process listens there. Members of the group may connect;
// group -1 is no group.
func listenUnix(ctx context.Context, path string, group int) (_ *socket, err error) {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, err
	}
	s := &socket{}
	if s.lock, err = lockFile(path + lockSuffix); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := requireFree(ctx, path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := bindUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	s.Listener = secrets.WithPeers(listener)
	if group < 0 {
		return s, nil
	}
	if err := os.Chown(path, -1, group); err != nil {
		return nil, fmt.Errorf("give the socket to group %d: %w; the user of the service must be in that group", group, err)
	}
	return s, os.Chmod(path, groupSocketMode)
}

// bindUnix creates a socket that only this user may connect to, from the moment it exists.
func bindUnix(ctx context.Context, path string) (*net.UnixListener, error) {
	defer syscall.Umask(syscall.Umask(ownerUmask))
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	unix, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, listener.Close())
	}
	return unix, nil
}

// Close implements net.Listener. Closing it again does nothing.
func (s *socket) Close() error {
	if s.Listener != nil {
		if err := s.Listener.Close(); errors.Is(err, net.ErrClosed) { // this removes the socket
			return nil
		}
	}
	return s.lock.Close()
}

// lockFile takes a lock that the system releases when the process ends.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, lockMode)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, lifecycle.ErrAddressTaken
		}
		return nil, err
	}
	return file, nil
}

// requireFree returns nil if path does not exist or is a socket that no process listens on.
func requireFree(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%q exists already and is not a socket", path)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return lifecycle.ErrAddressTaken
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return err
}

// groupID returns the number of a group given by name or number, or -1 if the text is empty.
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(id), nil
	}
	found, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found.Gid)
}
