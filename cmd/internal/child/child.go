// Package child runs one of our programs as a child process of another.
package child

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// killDelay is how long Run waits beyond Process.Drain before it kills a program that has not exited.
const killDelay = time.Second

// Find returns the path of a program: in the folder of the running one, or else in PATH.
func Find(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("there is no %s, neither in the folder of this program nor in PATH; \"make build\" builds it", name)
	}
	return path, nil
}

// Process is a program to run.
type Process struct {
	Path    string
	Args    []string
	Environ []string
	// Drain is how long the program may take to stop, by its own settings.
	Drain time.Duration
	// Log is called with each line of the program's standard error.
	Log func(line string)
}

// Run runs the program until ctx ends, then asks it to stop, and waits for it. If the program then stops in order, Run
// returns nil. Otherwise it returns an error, which is an *exec.ExitError if the exit code is above 0.
func (p Process) Run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, p.Path, p.Args...) //nolint:gosec // G204: it is one of our programs
	cmd.Env = p.Environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a terminal's Ctrl-C reaches only the parent, which stops its children in order
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.Drain + killDelay
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		p.Log(lines.Text())
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil && cmd.ProcessState.Success():
		return nil
	case err == nil:
		return fmt.Errorf("%s has exited, though it was not asked to", filepath.Base(p.Path))
	}
	return err
}

// AwaitReady waits until /readyz on a program's ops listener answers 200. If ctx ends first, it returns an error.
func AwaitReady(ctx context.Context, opsURL string) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, opsURL+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := client.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
