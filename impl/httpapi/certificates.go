package httpapi

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateInterval is the least time between two looks at a certificate's files.
const certificateInterval = time.Second

// Certificates is a server's certificate, which it reads again when its files have changed, so that a renewal needs no
// restart. It looks when a connection comes in and owns no goroutine.
type Certificates struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	stamps  [2]stamp
	looked  time.Time
}

// stamp tells one state of a file from another.
type stamp struct {
	modified time.Time
	size     int64
}

// LoadCertificates reads a certificate chain and its private key, both in PEM, or says why they can't be used.
func LoadCertificates(certFile, keyFile string, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{certFile: certFile, keyFile: keyFile, log: log, looked: time.Now()}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// get is a tls.Config's GetCertificate.
func (c *Certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= certificateInterval {
		c.looked = now
		c.renew(hello.Context())
	}
	return c.current, nil
}

// renew reads changed files. While they are no pair, as between the writing of the one and of the other, the old
// certificate goes on serving.
func (c *Certificates) renew(ctx context.Context) {
	if stamps, err := c.look(); err != nil || stamps == c.stamps {
		return
	}
	if err := c.load(); err != nil {
		c.log.WarnContext(ctx, "the TLS certificate's files have changed and can't be used; the old one goes on serving",
			slog.String("error", err.Error()))
		return
	}
	c.log.InfoContext(ctx, "TLS certificate renewed", slog.Time("expires", c.current.Leaf.NotAfter))
}

// load reads the files. They are stamped before, so that a change in between is seen at the next look.
func (c *Certificates) load() error {
	stamps, err := c.look()
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	c.stamps = stamps
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("TLS certificate %s and key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current = &pair
	return nil
}

func (c *Certificates) look() (stamps [2]stamp, err error) {
	for i, file := range []string{c.certFile, c.keyFile} {
		var info fs.FileInfo
		if info, err = os.Stat(file); err != nil {
			return stamps, err
		}
		stamps[i] = stamp{modified: info.ModTime(), size: info.Size()}
	}
	return stamps, nil
}
