// Command bench compares a Get through the SDK with the same request through net/http alone. It alternates between
// rounds with and without the SDK, so that other load on the machine affects both. The printed ratio is the median time
// with the SDK divided by the median time without it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

const (
	id      = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
	path    = "/v1/customers/-/projects/-/aikeys/" + id
	answer  = `{"key":{"id":"` + id + `","customer_id":"acme","project_id":"chat","provider":"openai",` + more
	more    = `"name":"openai-prod","display_suffix":"9f3c","user_scope":false,` + rest
	rest    = `"created_at":"2026-11-23T09:30:00.123456Z","created_by":"alice","state":"active"}}`
	inRound = 500
)

func main() {
	rounds := 40
	if len(os.Args) > 1 {
		n, err := strconv.Atoi(os.Args[1])
		if err != nil || n < 1 {
			log.Fatal("usage: bench [ROUNDS]")
		}
		rounds = n
	}
	if err := run(context.Background(), rounds); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, rounds int) error {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer) // the client may have gone away
	}))
	defer server.Close()
	sdk, err := agentrouter.New(ctx, agentrouter.WithBaseURL(server.URL), agentrouter.WithAPIKey("ak_bench"))
	if err != nil {
		return err
	}
	bare := &http.Client{Timeout: 30 * time.Second, Transport: http.DefaultTransport}
	withSDK := func() error {
		_, err := sdk.AIKeys().Get(ctx, "", "", id)
		return err
	}
	withoutSDK := func() error { return get(ctx, bare, server.URL+path) }

	var sdkTimes, bareTimes []time.Duration
	for range rounds {
		for _, side := range []struct {
			call  func() error
			times *[]time.Duration
		}{{withoutSDK, &bareTimes}, {withSDK, &sdkTimes}} {
			d, err := round(side.call)
			if err != nil {
				return err
			}
			*side.times = append(*side.times, d)
		}
	}
	with, without := median(sdkTimes), median(bareTimes)
	fmt.Printf("get: %.1f µs with the SDK, %.1f µs with net/http, ratio %.3f\n",
		microseconds(with), microseconds(without), float64(with)/float64(without))
	return nil
}

// get is a program's request without the SDK: it sets the headers, and decodes the answer into a struct.
func get(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer ak_bench")
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	var reply aikeysv1.GetResponse
	return json.Unmarshal(text, &reply)
}

func round(call func() error) (time.Duration, error) {
	start := time.Now()
	for range inRound {
		if err := call(); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / inRound, nil
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
