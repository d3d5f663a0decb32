package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookInterval is the least time between two looks at the files.
const lookInterval = time.Second

// identity is the client's half of mutual TLS. It reads its files again when they have changed, so that a renewal needs
// no restart: it looks when a connection is made and owns no goroutine. Connections that are there stay as they are.
type identity struct {
	files [3]string // certificate, key, authorities
	host  string
	log   *slog.Logger

	mu     sync.Mutex
	config *tls.Config
	stamps [3]stamp
	looked time.Time
}

// stamp tells one state of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

func loadIdentity(cfg Config, host string) (*identity, error) {
	i := &identity{files: [3]string{cfg.CertFile, cfg.KeyFile, cfg.CAFile}, host: host, log: cfg.Log, looked: time.Now()}
	if i.log == nil {
		i.log = slog.New(slog.DiscardHandler)
	}
	for _, file := range i.files {
		if file == "" {
			return nil, errors.New("secrets-svc: https takes a certificate, its key and the certificates of authorities")
		}
	}
	if err := i.load(); err != nil {
		return nil, fmt.Errorf("secrets-svc: %w", err)
	}
	return i, nil
}

// current returns the settings of a new connection. While changed files are no whole, as between the writing of the one
// and of the other, the old ones go on being used.
func (i *identity) current(ctx context.Context) *tls.Config {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := time.Now(); now.Sub(i.looked) >= lookInterval {
		i.looked = now
		i.renew(ctx)
	}
	return i.config
}

func (i *identity) renew(ctx context.Context) {
	if stamps, err := i.look(); err != nil || stamps == i.stamps {
		return
	}
	if err := i.load(); err != nil {
		i.log.WarnContext(ctx, "the TLS files for secrets-svc have changed and can't be used; the old ones go on being used",
			slog.String("error", err.Error()))
		return
	}
	i.log.InfoContext(ctx, "TLS files for secrets-svc renewed")
}

// load reads the files. They are stamped before, so that a change in between is seen at the next look.
func (i *identity) load() error {
	stamps, err := i.look()
	if err != nil {
		return err
	}
	i.stamps = stamps
	pair, err := tls.LoadX509KeyPair(i.files[0], i.files[1])
	if err != nil {
		return fmt.Errorf("certificate %s and key %s: %w", i.files[0], i.files[1], err)
	}
	authorities, err := os.ReadFile(i.files[2])
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return fmt.Errorf("authorities %s: no certificate in PEM", i.files[2])
	}
	i.config = &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: i.host, RootCAs: pool, Certificates: []tls.Certificate{pair},
	}
	return nil
}

func (i *identity) look() (stamps [3]stamp, err error) {
	for n, file := range i.files {
		var info fs.FileInfo
		if info, err = os.Stat(file); err != nil {
			return stamps, err
		}
		stamps[n] = stamp{modified: info.ModTime(), size: info.Size()}
	}
	return stamps, nil
}
