package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// BenchmarkRevocation measures how soon data planes have read a revocation, in milliseconds from just before the revoke is sent.
// Three replicas share one PostgreSQL server; data planes are connected to all of them over TLS, and acknowledge what they read.
func BenchmarkRevocation(b *testing.B) {
	const (
		replicas = 3
		// revocations is how many revocations are measured, after one that is not.
		revocations = 30
		// pause lets the acknowledgements of one revocation end before the next.
		pause = 700 * time.Millisecond
		// connectors is how many data planes connect at once: all must have connected before the first counts as silent.
		connectors = 16
	)
	for _, count := range []int{1, 1_000, 5_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			database, tokens := postgres(b, projectCount)
			keyset, files := b.TempDir()+"/keyset.json", tlsfilestest.WriteCertificate(b, b.TempDir(), 1)
			servers := make([]*process, replicas)
			for i := range servers {
				servers[i] = startAikeysd(b, database, "--sealer", "local:"+keyset, "--tls-cert", files.CertFile, "--tls-key", files.KeyFile)
				servers[i].url = strings.Replace(servers[i].url, "http:", "https:", 1)
				servers[i].dataPlane = strings.Replace(servers[i].dataPlane, "http:", "https:", 1)
			}
			trust := &tls.Config{RootCAs: files.Pool(b)}
			newClient := func() *http.Client {
				return &http.Client{Transport: &http.Transport{TLSClientConfig: trust.Clone(), MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64}}
			}
			user, dataPlanes, token := newClient(), newClient(), dataPlaneToken(b, database)
			keys := make([]string, revocations+1)
			for i := range keys { // before data planes connect, so that they get no events for it
				keys[i] = register(b, user, servers[0], tokens[0])
			}

			var (
				mu       sync.Mutex  // guards the following
				wanted   []byte      // in the event that is waited for
				read     []time.Time // when each of the data planes has read it
				complete chan struct{}
			)
			isWanted := func(data []byte) bool {
				now := time.Now()
				if !bytes.Contains(data, []byte(`"type":"key.revoked"`)) {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				if wanted == nil || !bytes.Contains(data, wanted) {
					return false
				}
				if read = append(read, now); len(read) == count {
					close(complete)
				}
				return true
			}
			acknowledge := func(server, session, position string) {
				req, err := http.NewRequest(http.MethodPost, server+"/v1/acknowledgements",
					strings.NewReader(fmt.Sprintf(`{"session_id":%q,"position":%q}`, session, position)))
				if err != nil {
					return
				}
				req.Header.Set("Authorization", "Bearer "+token)
				req.Header.Set("Content-Type", "application/json")
				if reply, err := dataPlanes.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, reply.Body)
					_ = reply.Body.Close()
				}
			}
			// follow is one data plane: it reads a stream to its end, and acknowledges the events that are waited for.
			follow := func(server string, lines *bufio.Reader) {
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
					if isWanted(data) {
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
					at := position
					wait := message.Within/2 + rand.IntN(message.Within/2+1)
					time.AfterFunc(time.Duration(wait)*time.Millisecond, func() { acknowledge(server, session, at) })
				}
			}
			// connect opens a stream on a connection of its own. net/http's client would add two goroutines to each.
			connect := func(server string) (*tls.Conn, *bufio.Reader, error) {
				address := strings.TrimPrefix(server, "https://")
				conn, err := tls.Dial("tcp", address, trust)
				if err != nil {
					return nil, nil, err
				}
				if _, err := fmt.Fprintf(conn, "GET /v1/events HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", address, token); err != nil {
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
			var connecting errgroup.Group
			var reading sync.WaitGroup
			connecting.SetLimit(connectors)
			conns := make([]*tls.Conn, count)
			for i := range count {
				connecting.Go(func() error {
					server := servers[i%replicas].dataPlane
					conn, lines, err := connect(server)
					if err == nil {
						conns[i] = conn
						reading.Go(func() { follow(server, lines) })
					}
					return err
				})
			}
			require.NoError(b, connecting.Wait())

			var times, last, receipts []float64
			stolen := stolenTime(b)
			for i, key := range keys {
				mu.Lock()
				wanted, read, complete = []byte(`"key_id":"`+key+`"`), nil, make(chan struct{})
				mu.Unlock()
				sent := time.Now()
				receipt := call(b, user, tokens[0], http.MethodDelete, servers[i%replicas].url+"/v1/aikeys/"+key+"?wait=3s", "")
				require.Contains(b, receipt, `"state":"complete"`)
				select {
				case <-complete:
				case <-time.After(5 * time.Second):
					b.Fatalf("not all of %d data planes have read the revocation", count)
				}
				took := make([]float64, count)
				for n, at := range read[:count] {
					took[n] = float64(at.Sub(sent).Microseconds()) / 1000
				}
				if i > 0 {
					times = append(times, took...)
					last = append(last, slices.Max(took))
					receipts = append(receipts, findNumber(b, receipt, `"slowest_ms":(\d+)`))
				}
				time.Sleep(pause)
			}
			for _, conn := range conns {
				_ = conn.NetConn().Close()
			}
			reading.Wait()
			slices.Sort(times)
			b.ReportMetric(times[len(times)/2], "p50-ms")
			b.ReportMetric(times[len(times)*99/100], "p99-ms")
			b.ReportMetric(slices.Max(last), "max-ms")
			b.ReportMetric(median(receipts), "receipt-ms")
			b.ReportMetric(100*stolen(), "steal-%")
			b.ReportMetric(0, "ns/op")
		})
	}
}
