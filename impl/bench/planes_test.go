package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// planes are many data planes, each with a goroutine that reads its stream.
type planes struct {
	client *http.Client
	token  string
	count  int

	mu       sync.Mutex
	wanted   []byte      // in the event that is waited for
	read     []time.Time // when each of the data planes has read it
	complete chan struct{}
}

// connectors is how many connect at once: all must have connected before the first counts as silent.
const connectors = 16

func connectPlanes(b *testing.B, servers []*process, authority *x509.CertPool, token string, count int) *planes {
	b.Helper()
	p := &planes{client: clientOf(authority), token: token, count: count}
	var group errgroup.Group
	var reading sync.WaitGroup
	group.SetLimit(connectors)
	conns := make([]*tls.Conn, count)
	for i := range count {
		group.Go(func() error {
			server := servers[i%len(servers)].dataPlane
			conn, lines, err := p.connect(server, authority)
			if err == nil {
				conns[i] = conn
				reading.Go(func() { p.follow(server, lines) })
			}
			return err
		})
	}
	require.NoError(b, group.Wait())
	b.Cleanup(func() {
		for _, conn := range conns {
			_ = conn.NetConn().Close()
		}
		reading.Wait()
	})
	return p
}

// connect opens a stream on a connection of its own. net/http's client would add two goroutines to each.
func (p *planes) connect(server string, authority *x509.CertPool) (*tls.Conn, *bufio.Reader, error) {
	address := strings.TrimPrefix(server, "https://")
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: authority})
	if err != nil {
		return nil, nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, p.token); err != nil {
		return nil, nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // the connection is closed
	if err != nil {
		return nil, nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("no stream: %s", response.Status)
	}
	return conn, bufio.NewReader(response.Body), nil
}

// follow reads one stream to its end, and acknowledges the events that are waited for.
func (p *planes) follow(server string, lines *bufio.Reader) {
	var session, position string
	var owes bool
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return
		}
		if id, found := bytes.CutPrefix(line, []byte("id: ")); found {
			position = string(bytes.TrimSpace(id))
			continue
		}
		data, found := bytes.CutPrefix(line, []byte("data: "))
		if !found {
			continue
		}
		if p.isWanted(data) {
			owes = true
			continue
		}
		if session != "" && !owes {
			continue
		}
		var message struct {
			Session string `json:"session_id"`
			Within  int    `json:"acknowledge_within_ms"`
		}
		if json.Unmarshal(data, &message) != nil {
			continue
		}
		if session == "" {
			session = message.Session
			continue
		}
		owes = false
		body := fmt.Sprintf(`{"session_id":%q,"position":%q}`, session, position)
		time.AfterFunc(time.Duration(message.Within/2+rand.IntN(message.Within/2+1))*time.Millisecond, func() { p.acknowledge(server, body) })
	}
}

// isWanted reports whether an event is the awaited revocation, and records the time if it is.
func (p *planes) isWanted(data []byte) bool {
	now := time.Now()
	if !bytes.Contains(data, []byte(`"type":"key.revoked"`)) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted == nil || !bytes.Contains(data, p.wanted) {
		return false
	}
	if p.read = append(p.read, now); len(p.read) == p.count {
		close(p.complete)
	}
	return true
}

// expect begins to wait for the revocation of a key.
func (p *planes) expect(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = []byte(`"key_id":"` + key + `"`)
	p.read, p.complete = nil, make(chan struct{})
}

// await returns how many milliseconds after sent each data plane had read it.
func (p *planes) await(b *testing.B, sent time.Time) []float64 {
	b.Helper()
	select {
	case <-p.complete:
	case <-time.After(5 * time.Second):
		p.mu.Lock()
		defer p.mu.Unlock()
		b.Fatalf("%d of %d data planes were told", len(p.read), p.count)
	}
	took := make([]float64, len(p.read))
	for i, at := range p.read {
		took[i] = float64(at.Sub(sent).Microseconds()) / 1000
	}
	return took
}

func (p *planes) acknowledge(server, body string) {
	req, err := http.NewRequest(http.MethodPost, server+"/v1/acknowledgements", strings.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	if reply, err := p.client.Do(req); err == nil {
		_, _ = io.Copy(io.Discard, reply.Body)
		_ = reply.Body.Close()
	}
}
