package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestNewInvalidConfig(t *testing.T) {
	for name, cfg := range map[string]remote.Config{
		"nothing":                {},
		"both a socket and URL":  {Socket: "a.sock", URL: "https://a:1"},
		"plain HTTP":             {URL: "http://a:1"},
		"a path":                 {URL: "https://a:1/v1"},
		"a user":                 {URL: "https://u@a:1"},
		"no files":               {URL: "https://a:1"},
		"files that are missing": {URL: "https://a:1", CertFile: "none", KeyFile: "none", CAFile: "none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := remote.New(cfg)
			require.ErrorContains(t, err, "secrets-svc: ")
		})
	}
}

func TestConnectionsAreReused(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	for range 20 {
		mustSeal(t, client)
	}
	require.EqualValues(t, 1, s.conns.Load())
}

func TestMaxConns(t *testing.T) {
	const most, callers = 3, 20
	s := newFakeService(t)
	entered, leave := make(chan struct{}, callers), make(chan struct{})
	s.answer(func(http.ResponseWriter, *http.Request) bool {
		entered <- struct{}{}
		<-leave
		return false
	})
	client := s.client(t, func(cfg *remote.Config) { cfg.MaxConns = most })
	var wg sync.WaitGroup
	errs := make(chan error, callers)
	for range callers {
		wg.Go(func() {
			_, err := client.Seal(t.Context(), exampleBinding(), sealer.NewSecret([]byte(canary)))
			errs <- err
		})
	}
	for range most {
		<-entered
	}
	select {
	case <-entered:
		require.Fail(t, "more requests than allowed")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, most, s.conns.Load())
}

// JSON has no way to send other bytes, and would send the same replacement for all of them.
func TestBindingNotUTF8(t *testing.T) {
	s := newFakeService(t)
	binding := exampleBinding()
	binding.KeyID = "byok_\xff"
	_, err := s.client(t).Seal(t.Context(), binding, sealer.NewSecret([]byte(canary)))
	require.ErrorIs(t, err, sealer.ErrInvalidBinding)
	require.Zero(t, s.requests.Load())
}

func TestInvalidInputSendsNoRequest(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	_, err := client.Open(t.Context(), exampleBinding(), []byte("none"))
	require.ErrorIs(t, err, sealer.ErrMalformed)
	_, err = client.Open(t.Context(), exampleBinding(), make([]byte, 1<<20))
	require.ErrorIs(t, err, sealer.ErrMalformed)
	results, err := client.RewrapAll(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, results)
	require.Zero(t, s.requests.Load())
}

func TestKEKs(t *testing.T) {
	s := newFakeService(t)
	primary, err := s.backend.PrimaryKEK(t.Context())
	require.NoError(t, err)
	keks, err := s.client(t).KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: primary, State: sealer.KEKPrimary}, {ID: "local:00000000", State: sealer.KEKRetired}}, keks)
}

func TestRewrapAllBatches(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	old, err := local.Open(t.TempDir() + "/keyset.json")
	require.NoError(t, err)
	envelope, foreign := mustSeal(t, client), mustSeal(t, old)
	items := make([]sealer.Item, 600)
	for i := range items {
		items[i] = sealer.Item{Binding: exampleBinding(), Envelope: envelope.Bytes}
	}
	other := exampleBinding()
	other.CustomerID = "globex"
	items[7].Binding = other
	items[300].Envelope = foreign.Bytes
	items[301].Envelope = []byte("none")
	items[599].Binding = sealer.Binding{}

	s.requests.Store(0)
	results, err := client.RewrapAll(t.Context(), items)
	require.NoError(t, err)
	require.EqualValues(t, 3, s.requests.Load())
	want := map[int]error{7: sealer.ErrBinding, 300: sealer.ErrUnknownKEK, 301: sealer.ErrMalformed, 599: sealer.ErrInvalidBinding}
	require.Len(t, results, len(items))
	for i, result := range results {
		if err := want[i]; err != nil {
			require.ErrorIs(t, result.Err, err, i)
			require.Zero(t, result.Envelope)
			continue
		}
		require.NoError(t, result.Err)
		require.Equal(t, envelope, result.Envelope)
	}
}

// A request takes 1 MiB, which a few of the longest envelopes fill.
func TestRewrapAllLongEnvelopes(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	envelope, err := client.Seal(t.Context(), exampleBinding(), sealer.NewSecret(make([]byte, sealer.MaxSecretLen)))
	require.NoError(t, err)
	items := make([]sealer.Item, 24)
	for i := range items {
		items[i] = sealer.Item{Binding: exampleBinding(), Envelope: envelope.Bytes}
	}
	results, err := client.RewrapAll(t.Context(), items)
	require.NoError(t, err)
	for _, result := range results {
		require.NoError(t, result.Err)
		require.True(t, bytes.Equal(envelope.Bytes, result.Envelope.Bytes))
	}
}

func TestPrimaryKEKIsCached(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	client := s.client(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := client.PrimaryKEK(t.Context())
			require.NoError(t, err)
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, s.requests.Load())

	before, err := client.PrimaryKEK(t.Context())
	require.NoError(t, err)
	s.backend = sealertest.New(t) // another primary KEK
	require.Eventually(t, func() bool {
		after, err := client.PrimaryKEK(t.Context())
		return err == nil && after != before
	}, 5*time.Second, 10*time.Millisecond)
}

func TestPrimaryKEKAfterASeal(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t)
	_, err := client.PrimaryKEK(t.Context())
	require.NoError(t, err)
	s.backend = sealertest.New(t)
	envelope := mustSeal(t, client)
	primary, err := client.PrimaryKEK(t.Context())
	require.NoError(t, err)
	require.Equal(t, envelope.KEKID, primary)
}

// A list of keys that asks for the primary KEK must not wait for a service that hangs, each time again.
func TestPrimaryKEKErrorIsCached(t *testing.T) {
	t.Parallel()
	s := newFakeService(t)
	s.always(http.StatusInternalServerError, "")
	client := s.client(t)
	for range 10 {
		_, err := client.PrimaryKEK(t.Context())
		require.ErrorIs(t, err, sealer.ErrUnavailable)
	}
	require.EqualValues(t, 1, s.requests.Load())
	s.misbehave.Store(nil)
	require.Eventually(t, func() bool {
		_, err := client.PrimaryKEK(t.Context())
		return err == nil
	}, 5*time.Second, 10*time.Millisecond)
}

func TestErrorsHoldNoSecret(t *testing.T) {
	s := newFakeService(t)
	client := s.client(t, func(cfg *remote.Config) { cfg.Timeout = time.Second })
	envelope := mustSeal(t, client)
	for name, misbehave := range map[string]func(){
		"an echo":         func() { s.always(http.StatusOK, canary) },
		"a refusal":       func() { s.always(http.StatusBadRequest, `{"detail":"`+canary+`","title":"`+canary+`"}`) },
		"an unknown type": func() { s.always(http.StatusUnprocessableEntity, `{"type":"/problems/`+canary+`"}`) },
		"a failure":       func() { s.always(http.StatusInternalServerError, `{"request_id":"`+strings.Repeat(canary, 2)+`"}`) },
		"a KEK":           func() { s.always(http.StatusOK, `{"kek_id":"`+canary+`","envelope":"`+canary+`"}`) },
	} {
		misbehave()
		for operation, run := range operations(client, envelope.Bytes) {
			err := run(context.WithoutCancel(t.Context()))
			require.Error(t, err, "%s %s", operation, name)
			require.NotContains(t, fmt.Sprintf("%+v", err), "canary", "%s %s", operation, name)
		}
	}
}
