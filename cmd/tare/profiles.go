package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// defaultProfile is the name of the first one.
const defaultProfile = "default"

// profile is one installation and who one is there.
type profile struct {
	BaseURL  string `json:"base_url"`
	APIKey   secret `json:"api_key,omitzero"`
	Insecure bool   `json:"insecure,omitempty"` // http:// to another machine was asked for

	// What --customer and --project are unless given. Empty is the session's own.
	Customer string `json:"customer,omitempty"`
	Project  string `json:"project,omitempty"`

	// What whoami said at the log-in, for people.
	CustomerID string `json:"customer_id,omitempty"`
	ProjectID  string `json:"project_id,omitempty"`
	UserID     string `json:"user_id,omitempty"`
	TokenID    string `json:"token_id,omitempty"`
}

// profiles is the file.
type profiles struct {
	Current  string             `json:"current"`
	Profiles map[string]profile `json:"profiles"`
}

func (ps profiles) names() []string {
	names := make([]string, 0, len(ps.Profiles))
	for name := range ps.Profiles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// named returns the profile of that name, which must exist.
func (ps profiles) named(name string) (profile, error) {
	found, ok := ps.Profiles[name]
	switch {
	case ok:
		return found, nil
	case len(ps.Profiles) == 0:
		return profile{}, cli.Usagef("there is no such profile, nor any other; make it: tare login --profile NAME")
	}
	return profile{}, cli.Usagef("there is no such profile; there are %s", strings.Join(ps.names(), ", "))
}

// checkProfileName refuses a name that would be hard to type or to show.
func checkProfileName(name string) error {
	bad := func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
	}
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, bad) {
		return cli.Usagef("--profile: must be 1 to 64 letters, digits, dots, underscores and dashes")
	}
	return nil
}

const configVariable = "TARE_CONFIG_DIR"

// profilesPath is where the file is: in the folder that the operating system has for settings.
func (p *program) profilesPath() (string, error) {
	if dir := p.Getenv(configVariable); dir != "" {
		return filepath.Join(dir, "profiles.json"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder for settings; set %s: %w", configVariable, err)
	}
	return filepath.Join(dir, "tare", "profiles.json"), nil
}

// loadProfiles reads the file; no file is no profiles.
func (p *program) loadProfiles() (profiles, error) {
	file, err := p.profilesPath()
	if err != nil {
		return profiles{}, err
	}
	none := profiles{Current: defaultProfile, Profiles: map[string]profile{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return profiles{}, err
	}
	p.warnOfReaders(file)
	read := none
	if json.Unmarshal(text, &read) != nil || read.Profiles == nil { // its error could repeat an API key
		return profiles{}, fmt.Errorf("%s is not as tare writes it; move it away, and log in again with tare login", file)
	}
	for _, each := range read.Profiles {
		p.hide(each.APIKey)
	}
	return read, nil
}

func (p *program) warnOfReaders(file string) {
	info, err := os.Stat(file)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		p.tell(fmt.Sprintf("tare: warning: others on this machine can read your API keys; mend it: chmod 600 %q", file))
	}
}

// lockPatience is how long another tare may hold the file.
const lockPatience = 10 * time.Second

// changeProfiles changes the file: it reads, changes and replaces it as one step, whatever else does so at the same time.
func (p *program) changeProfiles(ctx context.Context, change func(*profiles) error) (err error) {
	file, err := p.profilesPath()
	if err != nil {
		return err
	}
	if err := p.makeFolder(filepath.Dir(file)); err != nil {
		return err
	}
	if behind, err := filepath.EvalSymlinks(file); err == nil {
		file = behind // else an API key that is taken out would stay there
	}
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if _, err := lock.TryLockContext(waiting, 10*time.Millisecond); err != nil {
		return fmt.Errorf("another tare holds %s: %w", lock.Path(), err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	read, err := p.loadProfiles()
	if err != nil {
		return err
	}
	if err := change(&read); err != nil {
		return err
	}
	text, err := json.MarshalIndent(read, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(file, append(text, '\n'))
}

// makeFolder makes the folder of the profiles, for its owner alone. One that TARE_CONFIG_DIR names may be anybody's, and
// stays as it is if it is there.
func (p *program) makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil && p.Getenv(configVariable) != "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700) //nolint:gosec // G302: a folder needs the x
}

// replaceFile puts a text in a file's place, so that a reader finds the old one or the new one, whole.
func replaceFile(file string, text []byte) error {
	next, err := os.CreateTemp(filepath.Dir(file), ".profiles-*") // for its owner alone
	if err != nil {
		return err
	}
	_, err = next.Write(text)
	err = errors.Join(err, next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next.Name()))
	}
	return nil
}
