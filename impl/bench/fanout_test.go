package bench

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/tlsfiles/tlsfilestest"
)

// BenchmarkRevocation measures how soon data planes have read a revocation, in milliseconds from just before the revoke is sent.
// Three replicas share one PostgreSQL server; data planes are connected to all of them over TLS, and acknowledge what they read.
func BenchmarkRevocation(b *testing.B) {
	for _, count := range []int{1, 1_000, 5_000} {
		b.Run(strconv.Itoa(count), func(b *testing.B) { benchmarkRevocation(b, count) })
	}
}

const (
	replicas = 3
	// revocations is how many revocations are measured, after one that is not.
	revocations = 30
	// revocationPause lets the acknowledgements of one revocation end before the next.
	revocationPause = 700 * time.Millisecond
)

// operator is the user who registers and revokes keys.
type operator struct {
	client  *http.Client
	project project
}

func benchmarkRevocation(b *testing.B, count int) {
	database, projects := postgres(b, projectCount)
	keyset, files := b.TempDir()+"/keyset.json", tlsfilestest.WriteCertificate(b, b.TempDir(), 1)
	servers := make([]*process, replicas)
	for i := range servers {
		servers[i] = startSealing(b, database, "local:"+keyset, "--tls-cert", files.CertFile, "--tls-key", files.KeyFile)
		servers[i].url = strings.Replace(servers[i].url, "http:", "https:", 1)
		servers[i].dataPlane = strings.Replace(servers[i].dataPlane, "http:", "https:", 1)
	}
	authority := files.Pool(b)
	o := operator{client: clientOf(authority), project: projects[0]}
	keys := make([]string, revocations+1)
	for i := range keys { // before data planes connect, so that they get no events for it
		keys[i] = o.register(b, servers[0])
	}
	planes := connectPlanes(b, servers, authority, dataPlaneToken(b, database), count)
	var told, last, receipts []float64
	stolen := stolenTime(b)
	for i, key := range keys {
		planes.expect(key)
		sent := time.Now()
		receipt := o.revoke(b, servers[i%replicas], key)
		took := planes.await(b, sent)
		if i > 0 {
			told = append(told, took...)
			last = append(last, slices.Max(took))
			receipts = append(receipts, receipt)
		}
		time.Sleep(revocationPause)
	}
	slices.Sort(told)
	b.ReportMetric(percentile(told, 0.5), "p50-ms")
	b.ReportMetric(percentile(told, 0.99), "p99-ms")
	b.ReportMetric(slices.Max(last), "max-ms")
	b.ReportMetric(median(receipts), "receipt-ms")
	b.ReportMetric(100*stolen(), "steal-%")
	b.ReportMetric(0, "ns/op")
}

func percentile(sorted []float64, share float64) float64 {
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// clientOf returns an HTTP client that trusts an authority.
func clientOf(authority *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: authority}, MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64,
	}}
}

func (o operator) register(b *testing.B, server *process) string {
	b.Helper()
	body := fmt.Sprintf(`{"provider":"openai","name":"%d","secret":"sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}`, time.Now().UnixNano())
	reply := o.call(b, http.MethodPost, server.url+"/v1/aikeys", body)
	_, rest, found := strings.Cut(reply, `"id":"`)
	require.True(b, found, reply)
	return rest[:31]
}

// revoke revokes a key, waits for the receipt, and returns how many milliseconds its slowest acknowledgement took.
func (o operator) revoke(b *testing.B, server *process, key string) float64 {
	b.Helper()
	reply := o.call(b, http.MethodDelete, server.url+"/v1/aikeys/"+key+"?wait=3s", "")
	require.Contains(b, reply, `"state":"complete"`)
	return number(b, reply, `"slowest_ms":(\d+)`)
}

func (o operator) call(b *testing.B, method, url, body string) string {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	require.NoError(b, err)
	req.Header.Set("Authorization", "Bearer "+o.project.token)
	req.Header.Set("Content-Type", "application/json")
	reply, err := o.client.Do(req)
	require.NoError(b, err)
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	require.NoError(b, err)
	require.Less(b, reply.StatusCode, 300, string(text))
	return string(bytes.TrimSpace(text))
}
