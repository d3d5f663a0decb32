// Package unixsocket listens on unix sockets: it replaces a socket that a process left behind, lets in only certain users or a group,
// and identifies the user at the other end of a connection.
package unixsocket

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

	"github.com/agentrouter/aikeys/internal/lifecycle"
)

// Prefix begins an address that is the path of a unix socket.
const Prefix = "unix:"

const (
	lockSuffix = ".lock"

	lockMode        = 0o600
	groupSocketMode = 0o660
	userSocketMode  = 0o666
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

// Access says whose processes may connect, besides this process's own user. The zero value allows nobody else.
type Access struct {
	// Group is a group whose members may connect, by name or number.
	Group string
	// Users are the numbers of users whose processes may connect. The socket is then open to everybody, and connections of others are
	// closed at once; only the mode of the socket's folder can keep others from trying.
	Users []uint32
}

// Listen listens on a unix socket at path. It replaces a socket that no process listens on any more. If a process listens there, it
// returns lifecycle.ErrAddressTaken; it also fails if the path is not a socket.
func Listen(ctx context.Context, path string, access Access) (_ net.Listener, err error) {
	group, err := GroupID(access.Group)
	if err != nil {
		return nil, err
	}
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
	s.Listener = WithPeers(listener)
	switch {
	case len(access.Users) > 0:
		own := uint32(os.Geteuid()) //nolint:gosec // G115: a user's number
		s.Listener = WithPeers(listener, append([]uint32{own}, access.Users...)...)
		err = os.Chmod(path, userSocketMode)
	case group >= 0:
		if err := os.Chown(path, -1, group); err != nil {
			return nil, fmt.Errorf("give the socket to group %d: %w; the user of the service must be in that group", group, err)
		}
		err = os.Chmod(path, groupSocketMode)
	}
	return s, err
}

// bindUnix creates a socket. From the start, only this user may connect to it.
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

// Close implements net.Listener. A second call does nothing.
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

// GroupID returns the number of a group given by name or number, or -1 if the text is empty.
func GroupID(group string) (int, error) {
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

// UserID returns the number of a user given by name or number.
func UserID(name string) (uint32, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	found, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(found.Uid, 10, 32)
	return uint32(id), err
}
