package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/zalando/go-keyring"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
)

const (
	// keyringVariable turns the system's keyring off: tare then stores and reads nothing there, but still deletes what it stored before.
	keyringVariable = "TARE_KEYRING"
	// keyringService is the service name of tare's items in the keyring. Each profile has its own account name.
	keyringService = "tare"
	// keyringTimeout limits each use of the keyring: the system may ask for the keyring's password where nobody sees it.
	keyringTimeout = 3 * time.Second
	// busVariable has the address of the session bus, through which the Secret Service answers.
	busVariable = "DBUS_SESSION_BUS_ADDRESS"
)

// errKeyringUnreadable means that the keyring has a profile's credential but can't be read.
var errKeyringUnreadable = errors.New("your credential is in the system's keyring, which can't be read")

// errKeyringKept means that a profile's credential is still in the keyring, which can't be reached.
var errKeyringKept = errors.New("your credential is still in the system's keyring")

// The reasons why the keyring can't be used.
var (
	errKeyringOff      = errors.New(keyringVariable + " is off")
	errNoKeyring       = errors.New("this session has no keyring")
	errKeyringTooSmall = errors.New("it is too long for the keyring")
	errKeyringSlow     = fmt.Errorf("the keyring did not answer within %s; it may be locked", keyringTimeout)
)

// keyringStore is a store of secrets by service and account.
type keyringStore interface {
	Set(service, account, text string) error
	Get(service, account string) (string, error)
	Delete(service, account string) error
}

// systemKeyring is the Secret Service on Linux, the keychain on macOS, and the credential store on Windows.
type systemKeyring struct{}

func (systemKeyring) Set(service, account, text string) error {
	return keyring.Set(service, account, text)
}

func (systemKeyring) Get(service, account string) (string, error) {
	return keyring.Get(service, account)
}

func (systemKeyring) Delete(service, account string) error { return keyring.Delete(service, account) }

// keyringItem is the part of a profile that is in the keyring.
type keyringItem struct {
	// BaseURL is the only service that may get the secrets. Copies of profiles.json share an item, but may log in elsewhere.
	BaseURL      string      `json:"base_url"`
	APIKey       secret.Text `json:"api_key,omitzero"`
	RefreshToken secret.Text `json:"refresh_token,omitzero"`
}

// checkKeyringSetting checks TARE_KEYRING.
func (p *program) checkKeyringSetting() error {
	if setting := p.Getenv(keyringVariable); setting != "" && setting != "off" {
		return cli.Usagef("%s must be off, or not set", keyringVariable)
	}
	return nil
}

// findKeyring looks for the session bus and sets its address in the environment, because the D-Bus library would start
// a bus if the address were not set. If there is no keyring, findKeyring returns the reason.
func (p *program) findKeyring() error {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" || p.Getenv(busVariable) != "" {
		return nil
	}
	socket := filepath.Join(p.Getenv("XDG_RUNTIME_DIR"), "bus")
	if _, err := os.Stat(socket); err != nil || !filepath.IsAbs(socket) || strings.ContainsAny(socket, ",;%") {
		return errNoKeyring
	}
	return os.Setenv(busVariable, "unix:path="+socket) // the library looks only in /run/user
}

// useKeyring runs one use of the keyring, unless it is off.
func (p *program) useKeyring(use func() error) error {
	if p.Getenv(keyringVariable) == "off" {
		return errKeyringOff
	}
	return p.callKeyring(use)
}

// callKeyring runs one use of the keyring. It can't be interrupted: if it takes too long, tare abandons it and does not use the keyring again.
func (p *program) callKeyring(use func() error) error {
	if p.keyringFailure == nil {
		p.keyringFailure = p.findKeyring()
	}
	if p.keyringFailure != nil {
		return p.keyringFailure
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if recover() != nil { // the library panics if the bus is gone
				done <- errors.New("the keyring failed")
			}
		}()
		done <- use()
	}()
	patience := keyringTimeout
	if p.quiet {
		patience = completionTimeout
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		p.keyringFailure = errKeyringSlow
		return errKeyringSlow
	}
}

// keyringAccount returns the account of a profile's item. Profiles of the same name in other files have other items.
func (p *program) keyringAccount(name string) (string, error) {
	file, err := p.profilesPath()
	if err != nil {
		return "", err
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	digest := sha256.Sum256([]byte(file))
	return name + "-" + hex.EncodeToString(digest[:6]), nil
}

// moveToKeyring moves the secrets of a profile to the keyring. If the session token does not fit, it moves only the
// refresh token. If the move fails, moveToKeyring leaves the secrets in the profile, deletes the profile's item in the
// keyring, and returns the reason.
func (p *program) moveToKeyring(name string, one *profile) error {
	account, err := p.keyringAccount(name)
	if err != nil {
		return err
	}
	account = cmp.Or(one.Keyring, account)
	item, bare := one.keyringItem(), *one
	bare.APIKey = secret.Text{}
	if one.SignIn != nil {
		signIn := *one.SignIn
		signIn.RefreshToken = secret.Text{}
		bare.SignIn = &signIn
	}
	err = p.setKeyringItem(account, item)
	if errors.Is(err, errKeyringTooSmall) && item.RefreshToken.Reveal() != "" { // the session token lives for minutes or hours
		item.APIKey, bare.APIKey = secret.Text{}, one.APIKey
		err = p.setKeyringItem(account, item)
	}
	if err != nil {
		if kept := p.deleteKeyringItem(*one); kept != nil {
			p.printNote("tare: warning: " + cli.OneLine(kept.Error()))
		}
		one.Keyring = ""
		return err
	}
	*one = bare
	one.Keyring = account
	return nil
}

func (p *program) setKeyringItem(account string, item keyringItem) error {
	text, err := json.Marshal(item)
	if err != nil {
		return err
	}
	err = p.useKeyring(func() error { return p.keyring.Set(keyringService, account, string(text)) })
	if errors.Is(err, keyring.ErrSetDataTooBig) {
		return errKeyringTooSmall
	}
	return err
}

// readKeyring fills in the secrets of a profile that are in the keyring.
func (p *program) readKeyring(one *profile) error {
	held := one.keyringItem()
	if one.Keyring == "" || held.APIKey.Reveal() != "" && (one.SignIn == nil || held.RefreshToken.Reveal() != "") {
		return nil
	}
	var (
		text string
		item keyringItem
	)
	err := p.useKeyring(func() (err error) {
		text, err = p.keyring.Get(keyringService, one.Keyring)
		return err
	})
	if err == nil && (json.Unmarshal([]byte(text), &item) != nil || !isSameAddress(item.BaseURL, one.BaseURL)) {
		err = keyring.ErrNotFound
	}
	switch {
	case errors.Is(err, keyring.ErrNotFound):
		return hintedError{errNotLoggedIn, fmt.Sprintf("The system's keyring no longer has the item %q of %s for %s.", one.Keyring, keyringService, one.BaseURL)}
	case err != nil:
		return hintedError{fmt.Errorf("%w: %w", errKeyringUnreadable, err),
			"Unlock the keyring and try again, or log in again without it: " + keyringVariable + "=off tare login"}
	}
	p.registerSecret(item.APIKey)
	p.registerSecret(item.RefreshToken)
	if held.APIKey.Reveal() == "" {
		one.APIKey = item.APIKey
	}
	if one.SignIn != nil {
		signIn := *one.SignIn // others may read it
		signIn.RefreshToken = item.RefreshToken
		one.SignIn = &signIn
	}
	return nil
}

// deleteKeyringItem deletes the item of a profile, if it has one, even if the keyring is turned off.
func (p *program) deleteKeyringItem(one profile) error {
	if one.Keyring == "" {
		return nil
	}
	err := p.callKeyring(func() error { return p.keyring.Delete(keyringService, one.Keyring) })
	if err != nil && !errors.Is(err, keyring.ErrNotFound) {
		return hintedError{fmt.Errorf("%w, as the item %q of %s: %w", errKeyringKept, one.Keyring, keyringService, err),
			"Unlock the keyring, and try again."}
	}
	return nil
}

// forgetCredential reads the secrets of a profile from the keyring and deletes them there. If the deletion fails, the
// caller must keep the item's name in the profile, so that a later attempt finds the item.
func (p *program) forgetCredential(one *profile) error {
	unread := p.readKeyring(one)
	if err := p.deleteKeyringItem(*one); err != nil {
		return err
	}
	if errors.Is(unread, errKeyringUnreadable) && one.SignIn != nil {
		p.printNote("tare: warning: the session at the issuer could not be ended: " + cli.OneLine(unread.Error()))
	}
	return nil
}
