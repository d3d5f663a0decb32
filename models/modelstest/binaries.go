package modelstest

import (
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// errNoPostgres makes tests fail on a machine without PostgreSQL.
var errNoPostgres = errors.New("no PostgreSQL server found, neither in PATH nor in /usr/lib/postgresql/*/bin: " +
	"install one (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql@15) or set " +
	EnvPostgresURL + " to the URL of one whose user may create databases")

// preferredMajor is the version that is tested and supported first; others serve when it is absent.
const preferredMajor = "15"

// findBinaries returns the folder of initdb and postgres. It searches PATH, which a developer may set, and then lib
// (Debian: /usr/lib/postgresql), which has a folder for each major version.
func findBinaries(lib string) (string, error) {
	if path, err := osexec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && hasBinaries(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	if dir := filepath.Join(lib, preferredMajor, "bin"); hasBinaries(dir) {
		return dir, nil
	}
	best, bestMajor := "", 0
	versions, _ := os.ReadDir(lib)
	for _, v := range versions {
		major, err := strconv.Atoi(v.Name())
		if dir := filepath.Join(lib, v.Name(), "bin"); err == nil && major > bestMajor && hasBinaries(dir) {
			best, bestMajor = dir, major
		}
	}
	if best == "" {
		return "", errNoPostgres
	}
	return best, nil
}

func hasBinaries(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := osexec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// serverCredential returns the user to run the server as. It returns nil for the user of this process. If this process
// runs as root, it returns another user, because PostgreSQL refuses to run as root.
func serverCredential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s has no numeric id: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("user %s has no numeric group: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
}
