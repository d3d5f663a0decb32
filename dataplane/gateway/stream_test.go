package gateway_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func readExactly(t testing.TB, from io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	_, err := io.ReadFull(from, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// The provider sends each chunk only when the client has the one before.
func TestAnswersReachTheClientChunkByChunk(t *testing.T) {
	for name, header := range map[string]http.Header{
		"events":           {"Content-Type": {"text/event-stream"}},
		"a known length":   {"Content-Type": {"application/json"}, "Content-Length": {"9"}},
		"an unknown one":   {"Content-Type": {"application/json"}},
		"an encoding, too": {"Content-Type": {"text/event-stream"}, "Content-Encoding": {"gzip"}},
	} {
		t.Run(name, func(t *testing.T) {
			next := make(chan struct{})
			gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
				for k, v := range header {
					w.Header()[k] = v
				}
				w.WriteHeader(http.StatusOK)
				for i := range 3 {
					fmt.Fprintf(w, "ch%d", i)
					flush(w)
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			})
			r := request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}"))
			r.Header.Set("Accept-Encoding", "gzip") // or Go's client decodes it by itself
			res, err := http.DefaultTransport.RoundTrip(r)
			require.NoError(t, err)
			defer func() { _ = res.Body.Close() }()
			require.Equal(t, header.Get("Content-Encoding"), res.Header.Get("Content-Encoding"))
			for i := range 3 {
				readExactly(t, res.Body, fmt.Sprintf("ch%d", i))
				next <- struct{}{}
			}
			_, err = res.Body.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

// Both directions at once: the client sends its second chunk only when it has the answer to its first.
func TestRequestsReachTheProviderChunkByChunk(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		buffer := make([]byte, 16)
		for {
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			flush(w)
			if err != nil {
				return
			}
		}
	})
	body, feed := io.Pipe()
	go func() { _, _ = io.WriteString(feed, "first") }()
	res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/audio", body))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	readExactly(t, res.Body, "first")
	_, err = io.WriteString(feed, "second")
	require.NoError(t, err)
	readExactly(t, res.Body, "second")
	require.NoError(t, feed.Close())
	rest, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Empty(t, rest)
}

// An answer that comes before the request has ended passes, as for an upload that the provider refuses.
func TestAnEarlyAnswerPasses(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	body, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	go func() { _, _ = io.WriteString(feed, "first") }()
	res, err := http.DefaultTransport.RoundTrip(request(t, "POST", gw.URL+"/openai/files", body))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	require.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
	require.True(t, res.Close, "what is left of the body must not be taken for the next request")
}

type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.left)
	clear(p[:n])
	z.left -= n
	return n, nil
}

func TestLargeBodiesPassInFlatMemory(t *testing.T) {
	const size = 64 << 20
	gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
		digest := sha256.New()
		n, err := io.Copy(digest, r.Body)
		if err != nil || n != size {
			t.Errorf("%d bytes arrived: %v", n, err)
		}
		w.Header().Set("X-Digest", hex.EncodeToString(digest.Sum(nil)))
		_, _ = io.Copy(w, &zeros{left: size})
	})
	r := request(t, "POST", gw.URL+"/openai/files", &zeros{left: size})
	r.ContentLength = size
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	digest := sha256.New()
	n, err := io.Copy(digest, res.Body)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	require.EqualValues(t, size, n)
	require.Equal(t, hex.EncodeToString(digest.Sum(nil)), res.Header.Get("X-Digest"))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "bytes allocated for %d that passed", 2*size)
}

func TestAClientThatLeavesEndsTheProvidersWork(t *testing.T) {
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprintf("answer begun: %v", begun), func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan struct{})
			gw := openAI(t, func(w http.ResponseWriter, r *http.Request) {
				if begun {
					flush(w)
				}
				close(arrived)
				<-r.Context().Done()
				close(ended)
			})
			ctx, leave := context.WithCancel(t.Context())
			done := make(chan struct{})
			r := request(t, "GET", gw.URL+"/openai/chat", nil).WithContext(ctx)
			go func() {
				defer close(done)
				res, err := http.DefaultTransport.RoundTrip(r)
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}()
			<-arrived
			leave()
			<-ended
			<-done
			require.Eventually(t, func() bool { return strings.Contains(gw.log.String(), `"request_id"`) }, 5*time.Second, time.Millisecond)
			if !begun {
				require.Contains(t, gw.log.String(), `"status":499`)
			}
		})
	}
}

// What breaks off at the provider must not look whole to the client.
func TestAnAnswerThatBreaksOffIsCut(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		flush(w)
		panic(http.ErrAbortHandler)
	})
	res, err := http.DefaultTransport.RoundTrip(request(t, "GET", gw.URL+"/openai/chat", nil))
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	_, err = io.ReadAll(res.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Eventually(t, func() bool { return strings.Contains(gw.log.String(), `"cut":true`) }, 5*time.Second, time.Millisecond)
}

func TestInformationalAnswersPass(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "done")
	})
	var (
		mu    sync.Mutex
		codes []int
	)
	r := request(t, "GET", gw.URL+"/openai/models", nil)
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			codes = append(codes, code)
			return nil
		},
	}))
	res, body := do(t, r)
	require.Equal(t, "done", body)
	require.Equal(t, keyID, res.Header.Get("Agentrouter-Key-Id"))
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []int{http.StatusEarlyHints}, codes)
}

func TestManyStreamsLeaveNothingBehind(t *testing.T) {
	gw := openAI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 5 {
			_, _ = io.WriteString(w, "data: {}\n\n")
			flush(w)
		}
	})
	run := func(n int) uint64 {
		for range n {
			res, _ := do(t, request(t, "GET", gw.URL+"/openai/chat", nil))
			require.Equal(t, 200, res.StatusCode)
		}
		gw.log.text.Reset()
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := run(200)
	after := run(2000)
	require.Less(t, after, before+2<<20)
	require.Len(t, gw.reported(), 2200)
}
