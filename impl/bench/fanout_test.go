package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkRevocation: three replicas on one Postgres, with data planes connected to all of them, which acknowledge what they
// are told. From the moment before a caller sends a revoke until each data plane has read it, in milliseconds.
func BenchmarkRevocation(b *testing.B) {
	for _, count := range []int{1, 1_000, 5_000} {
		b.Run(strconv.Itoa(count), func(b *testing.B) { benchmarkRevocation(b, count) })
	}
}

const (
	replicas = 3
	// revocations is how many are measured; one before them is not.
	revocations = 30
	// revocationPause lets the acknowledgements of one be over before the next.
	revocationPause = 700 * time.Millisecond
)

func benchmarkRevocation(b *testing.B, count int) {
	database, projects := postgres(b, projectCount)
	keyset := b.TempDir() + "/keyset.json"
	servers := make([]*process, replicas)
	for i := range servers {
		servers[i] = startReplica(b, database, keyset)
	}
	keys := make([]string, revocations+1)
	for i := range keys { // before anybody is connected, who would be told of it
		keys[i] = registerOne(b, servers[0], projects[0])
	}
	token := dataPlaneToken(b, database)
	planes := connectPlanes(b, servers, token, count)
	var told, last, receipts []float64
	stolen := stolenTime(b)
	for i, key := range keys {
		planes.expect(key)
		sent := time.Now()
		receipt := revokeOne(b, servers[i%replicas], projects[0], key)
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

func registerOne(b *testing.B, server *process, p project) string {
	b.Helper()
	body := fmt.Sprintf(`{"provider":"openai","name":"%d","secret":"sk-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE"}`, time.Now().UnixNano())
	reply := call(b, http.MethodPost, server.url+"/v1/aikeys", p.token, body)
	_, rest, found := strings.Cut(reply, `"id":"`)
	require.True(b, found, reply)
	return rest[:31]
}

// revokeOne revokes a key, waits for the receipt, and returns how many milliseconds its slowest acknowledgement took.
func revokeOne(b *testing.B, server *process, p project, key string) float64 {
	b.Helper()
	reply := call(b, http.MethodDelete, server.url+"/v1/aikeys/"+key+"?wait=3s", p.token, "")
	require.Contains(b, reply, `"state":"complete"`)
	return number(b, reply, `"slowest_ms":(\d+)`)
}

func call(b *testing.B, method, url, token, body string) string {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	require.NoError(b, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	reply, err := http.DefaultClient.Do(req)
	require.NoError(b, err)
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	require.NoError(b, err)
	require.Less(b, reply.StatusCode, 300, string(text))
	return string(bytes.TrimSpace(text))
}
