package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/internal/secretfile"
)

// defaultProfile is the profile that login creates unless --profile names another.
const defaultProfile = "default"

// profile is an installation and the API key or session token to use there.
type profile struct {
	BaseURL  string      `json:"base_url"`
	APIKey   secret.Text `json:"api_key,omitzero"`
	Insecure bool        `json:"insecure,omitempty"` // http:// to another machine is allowed
	Gateway  string      `json:"gateway,omitempty"`  // where "tare run" sends requests
	SignIn   *signIn     `json:"sign_in,omitempty"`  // the session at the issuer; nil for an API key
	Keyring  string      `json:"keyring,omitempty"`  // the account of its item in the keyring, which holds the secrets that are not here

	// The defaults of --customer and --project. Empty means the session's own.
	Customer string `json:"customer,omitempty"`
	Project  string `json:"project,omitempty"`

	// The answer to whoami at the log-in, for people.
	CustomerID string `json:"customer_id,omitempty"`
	ProjectID  string `json:"project_id,omitempty"`
	UserID     string `json:"user_id,omitempty"`
	TokenID    string `json:"token_id,omitempty"`
}

// keyringItem returns the part of the profile that the keyring can hold.
func (one profile) keyringItem() keyringItem {
	item := keyringItem{BaseURL: one.BaseURL, APIKey: one.APIKey}
	if one.SignIn != nil {
		item.RefreshToken = one.SignIn.RefreshToken
	}
	return item
}

// Where a profile's credential is stored.
const (
	storedInKeyring = "keyring"
	storedInFile    = "file"
	storedInBoth    = "keyring and file" // the session token is in the file, because it was too long for the keyring
)

// storedIn returns where the profile's credential is stored, or "" if it has none.
func (one profile) storedIn() string {
	hasKey := one.APIKey.Reveal() != ""
	switch {
	case hasKey && one.Keyring != "":
		return storedInBoth
	case hasKey:
		return storedInFile
	case one.Keyring != "":
		return storedInKeyring
	}
	return ""
}

// profiles is the content of profiles.json.
type profiles struct {
	Current  string             `json:"current"`
	Profiles map[string]profile `json:"profiles"`
}

func (ps profiles) names() []string {
	return slices.Sorted(maps.Keys(ps.Profiles))
}

// find returns the profile with that name. Errors do not repeat the name.
func (ps profiles) find(name string) (profile, error) {
	found, ok := ps.Profiles[name]
	switch {
	case ok:
		return found, nil
	case len(ps.Profiles) == 0:
		return profile{}, cli.Usagef("there are no profiles yet; create one with: tare login --profile NAME")
	}
	return profile{}, cli.Usagef("there is no such profile; there are %s", strings.Join(ps.names(), ", "))
}

func validateProfileName(name string) error {
	if len(name) > 64 || !isID(name) {
		return cli.Usagef("--profile: must be 1 to 64 letters, digits, dots, underscores and dashes")
	}
	return nil
}

const configDirVariable = "TARE_CONFIG_DIR"

// profilesPath returns the path of profiles.json, in the operating system's folder for settings.
func (p *program) profilesPath() (string, error) {
	if dir := p.Getenv(configDirVariable); dir != "" {
		return filepath.Join(dir, "profiles.json"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("the system has no folder for settings; set %s: %w", configDirVariable, err)
	}
	return filepath.Join(dir, "tare", "profiles.json"), nil
}

// loadProfiles reads profiles.json. If it does not exist, there are no profiles.
func (p *program) loadProfiles() (profiles, error) {
	if err := p.checkKeyringSetting(); err != nil {
		return profiles{}, err
	}
	file, err := p.profilesPath()
	if err != nil {
		return profiles{}, err
	}
	none := profiles{Current: defaultProfile, Profiles: map[string]profile{}}
	text, err := secretfile.Read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return profiles{}, err
	}
	read := none
	if json.Unmarshal(text, &read) != nil || read.Profiles == nil { // the error could repeat an API key
		return profiles{}, fmt.Errorf("%s is not a profiles file of tare; move it away, and log in again with tare login", file)
	}
	for _, each := range read.Profiles {
		p.registerSecret(each.APIKey)
		if each.SignIn != nil {
			p.registerSecret(each.SignIn.RefreshToken)
		}
	}
	return read, nil
}

// lockTimeout is how long to wait for another tare that is changing the file. It may be asking the issuer and the keyring.
const lockTimeout = 2*issuerTimeout + 3*keyringTimeout

// changeProfiles reads, changes and replaces profiles.json as one step. A lock file keeps other processes out.
func (p *program) changeProfiles(ctx context.Context, change func(*profiles) error) (err error) {
	file, err := p.profilesPath()
	if err != nil {
		return err
	}
	if err := p.createFolder(filepath.Dir(file)); err != nil {
		return err
	}
	if behind, err := filepath.EvalSymlinks(file); err == nil {
		file = behind // replacing the link would leave a removed API key behind in its target
	}
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	if _, err := lock.TryLockContext(waiting, 10*time.Millisecond); err != nil {
		return fmt.Errorf("another tare has been using %s for %s, and may be waiting for an issuer; try again: %w", lock.Path(), lockTimeout, err)
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

// createFolder creates the folder of profiles.json with mode 0700. An existing folder that TARE_CONFIG_DIR names keeps
// its mode, because other programs may use the folder, too.
func (p *program) createFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil && p.Getenv(configDirVariable) != "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700) //nolint:gosec // G302: a folder needs x to be entered
}

// replaceFile replaces a file atomically: readers see the old content or the new.
func replaceFile(file string, text []byte) error {
	next, err := os.CreateTemp(filepath.Dir(file), ".profiles-*") // with mode 0600
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

func (p *program) profilesCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "profiles",
		Short: "List and choose the services that you log in to",
		Long: `A profile is a service that you log in to, under a name. One profile is the current one; --profile uses another for one
command. "tare login" creates profiles.`,
		Example: `  tare profiles list
  tare profiles use prod
  tare profiles remove staging`,
	}, p.profilesListCommand(), p.profilesUseCommand(), p.profilesRemoveCommand())
}

// profileInfo is a profile without its API key.
type profileInfo struct {
	Name       string `json:"name"`
	InUse      bool   `json:"in_use"`
	BaseURL    string `json:"base_url"`
	CustomerID string `json:"customer_id,omitempty"`
	ProjectID  string `json:"project_id,omitempty"`
	UserID     string `json:"user_id,omitempty"`
	LoggedIn   bool   `json:"logged_in"`
	StoredIn   string `json:"stored_in,omitempty"`
}

func (p *program) profilesListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the profiles",
		Long: `Lists the profiles, and where the API key or session token of each is stored: in the system's keyring, or in the file
profiles.json. User and project are those of the last log-in: tare asks no server.`,
		Example: "  tare profiles list",
		Args:    cli.NoArguments(),
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		all, err := p.loadProfiles()
		if err != nil {
			return err
		}
		listed := make([]profileInfo, 0, len(all.Profiles))
		for _, name := range all.names() {
			each := all.Profiles[name]
			listed = append(listed, profileInfo{
				Name: name, InUse: name == all.Current, BaseURL: each.BaseURL,
				CustomerID: cmp.Or(each.Customer, each.CustomerID), ProjectID: cmp.Or(each.Project, each.ProjectID),
				UserID: each.UserID, LoggedIn: each.storedIn() != "", StoredIn: each.storedIn(),
			})
		}
		if !p.isForPeople() {
			return p.printValue(map[string]any{"profiles": listed})
		}
		return p.printProfiles(listed)
	}
	return cmd
}

func (p *program) printProfiles(listed []profileInfo) error {
	if len(listed) == 0 {
		p.printNote("There are no profiles yet. Create one with: tare login")
		return nil
	}
	t := &table{columns: []column{
		{head: "PROFILE"}, {head: "SERVER", canShrink: true}, {head: "PROJECT", canShrink: true, dropRank: 2}, {head: "USER", dropRank: 1}, {head: "STORED IN", dropRank: 3}, {head: ""},
	}}
	for _, each := range listed {
		name, state := cell{each.Name, plain}, cell{}
		if each.InUse {
			name.style, state = bold, cell{"in use", green}
		}
		if !each.LoggedIn {
			state = cell{"logged out", yellow}
		}
		t.addRow(name, cell{each.BaseURL, plain}, cell{each.CustomerID + "/" + each.ProjectID, plain}, cell{each.UserID, plain}, cell{each.StoredIn, plain}, state)
	}
	return p.printTable(t)
}

func (p *program) profilesUseCommand() *cobra.Command {
	return p.profileChange(&cobra.Command{
		Use:     "use <name>",
		Short:   "Make a profile the current one",
		Long:    "Makes a profile the current one: commands use it unless --profile or the environment says otherwise.",
		Example: "  tare profiles use prod",
	}, "The profile %s is in use.", "in_use", func(all *profiles, name string) error {
		all.Current = name
		return nil
	})
}

func (p *program) profilesRemoveCommand() *cobra.Command {
	var was profile
	cmd := p.profileChange(&cobra.Command{
		Use:   "remove <name>",
		Short: "Remove a profile and its API key from this machine",
		Long: `Removes a profile and its API key from this machine. Nothing changes on the server; the API key stays valid. tare ends a
session at its issuer, if the issuer supports that.`,
		Example: "  tare profiles remove staging",
	}, "Removed the profile %s.", "removed", func(all *profiles, name string) error {
		was = all.Profiles[name]
		if err := p.forgetCredential(&was); err != nil {
			return err
		}
		delete(all.Profiles, name)
		if all.Current == name {
			all.Current = defaultProfile
		}
		return nil
	})
	remove := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := remove(cmd, args); err != nil {
			return err
		}
		p.endSignIn(cmd.Context(), was.SignIn, was.Insecure)
		return nil
	}
	return cmd
}

// profileChange makes cmd change the profile that its argument names. For people, the command prints the profile's name
// in the format done. As JSON, it prints an object with the profile's name, in which the field that member names is
// true.
func (p *program) profileChange(cmd *cobra.Command, done, member string, change func(all *profiles, name string) error) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = oneArgument("the profile's name"), completeFirst(p.completeProfiles)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := args[0]
		err := p.changeProfiles(cmd.Context(), func(all *profiles) error {
			if _, err := all.find(name); err != nil {
				return err
			}
			return change(all, name)
		})
		if err != nil {
			return err
		}
		return p.printDone(fmt.Sprintf(done, name), map[string]any{"profile": name, member: true})
	}
	return cmd
}
