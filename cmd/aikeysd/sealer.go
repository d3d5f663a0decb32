package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/kmsurl"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
)

// The schemes of sealers: a keyset file that this process reads, and secrets-svc on this machine or on another. sealerKMS stands for
// the schemes of package kmsurl.
const (
	sealerLocal  = "local"
	sealerSocket = "secrets+unix"
	sealerTLS    = "secrets+https"
	sealerKMS    = "kms"
)

// sealerForms lists the forms of a sealer's setting.
const sealerForms = "local:<path of a keyset file>, secrets+unix:<path of a socket>, secrets+https://<host>:<port>, or " + kmsurl.Forms

// splitSealer splits a sealer's setting into the scheme and the rest. For a key management service, the rest is the
// whole URL. If the text does not name a sealer, the scheme is empty.
func splitSealer(text string) (scheme, rest string) {
	if kmsurl.Knows(text) {
		return sealerKMS, text
	}
	scheme, rest, _ = strings.Cut(text, ":")
	switch scheme {
	case sealerLocal, sealerSocket:
		if rest != "" {
			return scheme, rest
		}
	case sealerTLS:
		u, err := url.Parse("https:" + rest)
		if err == nil && u.Hostname() != "" && u.Port() != "" && u.User == nil && *u == (url.URL{Scheme: u.Scheme, Host: u.Host}) {
			return scheme, rest
		}
	}
	return "", ""
}

// checkSealer checks the settings of sealers, and opens nothing.
func (s *config) checkSealer() (complaints []string) {
	given, old := s.Of("sealer"), s.Of("sealer-old")
	scheme, _ := splitSealer(s.Sealer)
	if scheme == "" {
		return []string{given.Given() + ": must be " + sealerForms}
	}
	complaints = checkKMS(given, s.Sealer)
	overTLS := scheme == sealerTLS
	for _, text := range s.SealerOld {
		scheme, _ := splitSealer(text)
		if scheme == "" {
			return []string{old.Given() + ": must be sealers with commas between, each " + sealerForms}
		}
		if text == s.Sealer {
			complaints = append(complaints, old.Given()+": names "+given.Given()+" itself; leave that out")
		}
		complaints = append(complaints, checkKMS(old, text)...)
		overTLS = overTLS || scheme == sealerTLS
	}
	for _, name := range []string{"sealer-cert", "sealer-key", "sealer-ca"} {
		if file := s.Of(name); (file.String() != "") != overTLS {
			return append(complaints, s.sealerFiles()+": are for a sealer that is secrets+https, which needs all three")
		}
	}
	return complaints
}

// sealerFiles names the settings of a sealer over TLS.
func (s *config) sealerFiles() string {
	return fmt.Sprintf("%s, %s and %s", s.Of("sealer-cert").Given(), s.Of("sealer-key").Given(), s.Of("sealer-ca").Given())
}

// checkKMS returns what is wrong with the URL of a key management service, if a setting has one.
func checkKMS(setting *settings.Setting, text string) (complaints []string) {
	if !kmsurl.Knows(text) {
		return nil
	}
	if err := kmsurl.Check(text); err != nil {
		return []string{setting.Given() + ": " + err.Error()}
	}
	return nil
}

// checkSealerFiles reads the files that clients of sealers need, unless checkSealer has complaints already.
func (s *config) checkSealerFiles() []string {
	if len(s.checkSealer()) > 0 {
		return nil
	}
	for _, text := range append([]string{s.Sealer}, s.SealerOld...) {
		names := s.Of("sealer").Given() + " or " + s.Of("sealer-old").Given()
		switch scheme, _ := splitSealer(text); scheme {
		case sealerLocal, sealerSocket:
			continue
		case sealerTLS:
			names = s.sealerFiles()
			if complaints := s.unreadable("sealer-cert", "sealer-key", "sealer-ca"); len(complaints) > 0 {
				return complaints
			}
		}
		one, err := s.openClient(text, nil)
		if err != nil { // the error names the files
			return []string{names + ": " + err.Error()}
		}
		_ = one.Close() // it has not connected
	}
	return nil
}

// unreadable returns a complaint for each of the settings whose file can't be read.
func (s *config) unreadable(names ...string) (complaints []string) {
	for _, name := range names {
		if _, err := os.ReadFile(s.Of(name).String()); err != nil {
			complaints = append(complaints, s.Of(name).Given()+": "+err.Error())
		}
	}
	return complaints
}

// keysetPath returns the file of a local sealer. ok is false for any other sealer.
func (s *config) keysetPath() (path string, ok bool) {
	scheme, rest := splitSealer(s.Sealer)
	return rest, scheme == sealerLocal
}

// openSealer hides the process's memory, and opens the sealer and the old sealers. The old sealers open the envelopes
// that they have sealed; a process that only seals does not need them. openSealer creates a missing keyset file, except
// for old sealers, and connects to nothing. It adds the functions that close the sealers to closers.
func (s *config) openSealer(log *slog.Logger, closers *lifecycle.Closers) (sealer.Sealer, error) {
	if err := cli.HideMemory(); err != nil {
		return nil, err
	}
	texts := []string{s.Sealer}
	if s.keysetUse() != keysetcheck.SealOnly {
		texts = append(texts, s.SealerOld...)
	}
	var opened []sealer.Sealer
	for i, text := range texts {
		one, err := s.openOne(text, i > 0, log, closers)
		if err != nil {
			return nil, err
		}
		opened = append(opened, one)
	}
	return sealer.Migrating(opened[0], opened[1:]...), nil
}

// openOne opens one sealer. If mustExist is set, it does not create a missing keyset file.
func (s *config) openOne(text string, mustExist bool, log *slog.Logger, closers *lifecycle.Closers) (sealer.Sealer, error) {
	if path, isFile := strings.CutPrefix(text, sealerLocal+":"); isFile {
		one, err := local.OpenWith(path, local.Options{MustExist: mustExist, Log: log})
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: there is no keyset at %s", s.Of("sealer-old").Given(), absolute(path))
		}
		return one, err
	}
	one, err := s.openClient(text, log)
	if err == nil {
		closers.Add(one.Close)
	}
	return one, err
}

// client is a sealer that asks another process.
type client interface {
	sealer.Sealer
	Close() error
}

// openClient returns a client of a key management service or of secrets-svc. In a process with the public role, the
// client of a key management service only wraps, because the role may not open secrets. With a nil log, the client logs
// nothing.
func (s *config) openClient(text string, log *slog.Logger) (client, error) {
	switch scheme, rest := splitSealer(text); scheme {
	case sealerKMS:
		options := kms.Options{WrapOnly: s.keysetUse() == keysetcheck.SealOnly, CacheTTL: s.SealerCache}
		return kmsurl.Open(context.Background(), rest, options, log)
	case sealerTLS:
		return remote.New(remote.Config{URL: "https:" + rest, CertFile: s.SealerCert, KeyFile: s.SealerKey, CAFile: s.SealerCA, Log: log})
	default:
		return remote.New(remote.Config{Socket: rest, Log: log})
	}
}

// sealerName returns the sealer's name for messages, with the absolute path of a file.
func (s *config) sealerName() string {
	if path, ok := s.keysetPath(); ok {
		return absolute(path)
	}
	return s.Sealer
}

// unreachableSealer adds advice to an error that says that the sealer can't be reached or refuses this client.
func unreachableSealer(cfg *config, err error) error {
	switch {
	case errors.Is(err, keysetcheck.ErrUnproven):
		return fmt.Errorf("%w; check that %s=%s is the keyset of this database, and that an aikeysd of the role %s or %s runs with it, "+
			"which needs the rights open and status", err, cfg.Of("sealer").Variable(), cfg.Sealer, roleDataplane, roleAll)
	case errors.Is(err, keysetcheck.ErrNoCanary):
		return fmt.Errorf("%w; start an aikeysd of the role %s", err, rolePublic)
	case errors.Is(err, kms.ErrRefused):
		return fmt.Errorf("%w; then check with: aikeysd check", err)
	case errors.Is(err, sealer.ErrUnavailable) && kmsurl.Knows(cfg.Sealer):
		return fmt.Errorf("%w; check that the key management service runs, and %s", err, cfg.Of("sealer").Variable())
	case errors.Is(err, remote.ErrNotAllowed):
		return fmt.Errorf("%w; check SECRETS_SVC_CLIENTS there", err)
	case errors.Is(err, sealer.ErrUnavailable):
		return fmt.Errorf("%w; check that secrets-svc runs at %s, and %s", err, cfg.Sealer, cfg.Of("sealer").Variable())
	}
	return err
}
