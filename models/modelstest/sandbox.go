package modelstest

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// sandbox is a folder for PostgreSQL servers, and the user that they run as.
type sandbox struct {
	dir        string // owned by the servers' user
	bin        string // has PostgreSQL's programs
	password   string // of the superuser
	credential *syscall.Credential
}

func newSandbox() (s sandbox, err error) {
	if s.bin, err = findBinaries("/usr/lib/postgresql"); err != nil {
		return s, err
	}
	if s.credential, err = serverCredential(); err != nil {
		return s, err
	}
	s.password = randomHex(16)
	sweep(os.TempDir())
	if s.dir, err = os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-"); err != nil {
		return s, err
	}
	err = s.chown(s.dir)
	return s, err
}

// sweep removes the folders of clusters whose processes were killed: some 40 MB each.
func sweep(temp string) {
	dirs, _ := filepath.Glob(filepath.Join(temp, dirPrefix+"*-*")) // fails only on a bad pattern
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // fails for another user's folder
		}
	}
}

func (s *sandbox) chown(path string) error {
	if s.credential == nil {
		return nil
	}
	return os.Chown(path, int(s.credential.Uid), int(s.credential.Gid))
}

// write writes a file that belongs to the servers' user, who alone can read it.
func (s *sandbox) write(path, text string) error {
	return errors.Join(os.WriteFile(path, []byte(text), 0o600), s.chown(path))
}

// command prepares a program that runs as the servers' user, without the PG* variables of the environment. The program
// runs in the sandbox's folder, which that user may enter.
func (s *sandbox) command(program string, args ...string) *osexec.Cmd {
	//nolint:gosec,noctx // our own arguments; Stop, Kill and the end of the test end the programs, not a context
	cmd := osexec.Command(program, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"LC_ALL=C", "HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	return cmd
}

// start starts a program, which writes to a log file in the folder and ends when this process ends. The channel is
// closed once the program has been waited for.
func (s *sandbox) start(cmd *osexec.Cmd, logFile string) (chan struct{}, error) {
	log, err := os.OpenFile(filepath.Join(s.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
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
			_ = cmd.Wait() // those who use the program judge how it exits
		}
		_ = log.Close()
	}()
	return exited, <-started
}

// logTail returns the end of a log file.
func (s *sandbox) logTail(logFile string) string {
	log, err := os.ReadFile(filepath.Join(s.dir, logFile))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(log[max(0, len(log)-logTail):]))
}

// freePort returns a port that nobody listens on. The port is below the range that kernels give to outgoing connections
// (Linux: from 32768). From that range, the kernel could give a stopped cluster's port to a client that dials the
// cluster, and the client could keep the port.
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
