package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// watchInterval is the least time between two looks at files.
const watchInterval = time.Second

// watched is what files hold. They are read again when they have changed, so that what is in them can be rotated without a
// restart; it looks when it is asked, and owns no goroutine. While they hold nothing that can be used, as between the writing
// of two, the last that could be goes on.
type watched[T any] struct {
	what  string
	files []string
	read  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	current T
	stamps  []stamp
	looked  time.Time
}

// stamp tells one state of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// watch reads the files for the first time.
func watch[T any](log *slog.Logger, what string, read func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{what: what, files: files, read: read, log: log, looked: time.Now(), stamps: stampsOf(files)}
	var err error
	if w.current, err = read(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return w, nil
}

// get returns what the files hold.
func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.looked) < watchInterval {
		return w.current
	}
	w.looked = now
	stamps := stampsOf(w.files) // before they are read, so that a change in between is seen at the next look
	if slices.Equal(stamps, w.stamps) {
		return w.current
	}
	w.stamps = stamps
	ctx := context.Background() // there may be no request: a stream asks, too
	changed, err := w.read()
	if err != nil {
		w.log.WarnContext(ctx, "a file has changed and can't be used; what it held before is used on",
			slog.String("of", w.what), slog.String("error", err.Error()))
		return w.current
	}
	w.log.InfoContext(ctx, "a file has changed and is used", slog.String("of", w.what))
	w.current = changed
	return w.current
}

func stampsOf(files []string) []stamp {
	stamps := make([]stamp, len(files))
	for i, file := range files {
		if info, err := os.Stat(file); err == nil {
			stamps[i] = stamp{modified: info.ModTime(), size: info.Size()}
		}
	}
	return stamps
}

// readSecret reads a file that holds one secret. Its error does not repeat it.
func readSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New("the file must hold one word of printable ASCII")
	}
	return secret, nil
}

// credentialPrefix begins the credentials of data planes.
const credentialPrefix = "dp_"

func readCredential(file string) (string, error) {
	credential, err := readSecret(file)
	if err == nil && !strings.HasPrefix(credential, credentialPrefix) {
		return "", errors.New("the file must hold the credential of a data plane, " + credentialPrefix + "…, as \"aikeysd admin dataplane create\" prints it")
	}
	return credential, err
}

func watchCertificate(log *slog.Logger, what, certFile, keyFile string) (*watched[*tls.Certificate], error) {
	return watch(log, what, func() (*tls.Certificate, error) { return readCertificate(certFile, keyFile) }, certFile, keyFile)
}

func readCertificate(certFile, keyFile string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s and key %s: %w", certFile, keyFile, err)
	}
	return &pair, nil
}
