package bench

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/agentrouter/aikeys/sealer/awskms/awskmstest"
	"github.com/agentrouter/aikeys/sealer/gcpkms/gcpkmstest"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

// coldFetches is how many fetches are measured, one after the other.
const coldFetches = 1_000

// BenchmarkColdFetchKMS: calls of the key management service, and milliseconds, for a thousand cold fetches. aikeysd has no cache of
// its own, so that each fetch of a data plane is a cold one.
func BenchmarkColdFetchKMS(b *testing.B) {
	for _, backend := range []struct {
		name string
		// start returns the URL of a key, and counts its service's calls.
		start func(b *testing.B, calls *atomic.Int64) string
		flags []string
	}{
		{"file", func(b *testing.B, _ *atomic.Int64) string {
			return "local:" + filepath.Join(b.TempDir(), "keyset.json")
		}, nil},
		{"OpenBao", startOpenBao, nil},
		{"OpenBao,cache=1m", startOpenBao, []string{"--sealer-cache", "1m"}},
		{"AWS-moto", awsEmulator("moto"), nil},
		{"AWS-local-kms", awsEmulator("local-kms"), nil},
		{"GCP-double", startGCP, nil},
	} {
		b.Run(backend.name, func(b *testing.B) {
			var calls atomic.Int64
			url := backend.start(b, &calls)
			database := "sqlite:" + filepath.Join(b.TempDir(), "aikeys.db")
			owner := seed(b, database, 1)[0]
			server := startAikeysd(b, database, append([]string{"--sealer", url}, backend.flags...)...)
			key, plane := register(b, http.DefaultClient, server, owner), dataPlaneToken(b, database)
			fetch := func() {
				call(b, http.DefaultClient, plane, http.MethodPost, server.dataPlane+"/v1/fetch", `{"key_id":"`+key+`"}`)
			}
			fetch()
			calls.Store(0)
			began := time.Now()
			for range coldFetches {
				fetch()
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(time.Since(began).Milliseconds()), fmt.Sprintf("ms/%d", coldFetches))
			b.ReportMetric(float64(calls.Load()), fmt.Sprintf("calls/%d", coldFetches))
		})
	}
}

// counting returns a handler that counts requests.
func counting(calls *atomic.Int64) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			next.ServeHTTP(w, r)
		})
	}
}

func startOpenBao(b *testing.B, calls *atomic.Int64) string {
	server := vaulttest.Start(b)
	url, _ := server.Sealer(b)
	server.Intercept(b, counting(calls))
	return url
}

func awsEmulator(name string) func(*testing.B, *atomic.Int64) string {
	return func(b *testing.B, calls *atomic.Int64) string {
		server := awskmstest.Start(b, name)
		key := server.NewKey(b, &kms.CreateKeyInput{})
		server.Intercept(b, counting(calls))
		return server.Sealer(key)
	}
}

func startGCP(b *testing.B, calls *atomic.Int64) string {
	server := gcpkmstest.Start(b)
	server.NewKey(b, "bench", kmspb.CryptoKey_ENCRYPT_DECRYPT)
	server.Before = func(context.Context, string) error { calls.Add(1); return nil }
	return server.URL("bench")
}
