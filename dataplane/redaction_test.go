package dataplane_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// prints returns a value in every way that ends in logs.
func prints(t *testing.T, v any) string {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", v)
		fmt.Fprintf(&out, verb+"\n", []any{v})
		fmt.Fprintf(&out, verb+"\n", struct{ V any }{v})
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
	if document, err := json.Marshal(v); err == nil {
		out.Write(document)
	}
	return out.String()
}

func TestNothingSecretIsPrinted(t *testing.T) {
	const marked = "MARKED-SECRET"
	var log syncBuffer
	registry := prometheus.NewRegistry()
	s := newScene(t, func(cfg *dataplane.Config) {
		cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		cfg.Metrics = registry
	})
	caller := "ak_" + marked
	s.AddCredential(caller, dataplanetest.Credential{})
	s.register(dataplanetest.Key{Secret: "sk-" + marked})
	req := dataplane.ForCaller(caller, "openai")
	key, err := s.resolve(req)
	require.NoError(t, err)
	require.Contains(t, key.Secret().Reveal(), marked)
	require.Equal(t, "[redacted]", fmt.Sprint(key.Secret()))

	cfg := s.Config()
	cfg.Token = func() string { return "dp_" + marked }
	values := []any{key, *key, req, &req, cfg, &cfg, s.r.Status(), s.r}
	refused := []dataplane.Request{
		{Credential: caller, Provider: "openai", KeyID: marked[:6]},
		dataplane.ForCaller(marked, "openai"),
	}
	for name, fault := range faults() {
		s.SetFault(fault, dataplanetest.Fetch)
		if fault == dataplanetest.Hanging {
			continue
		}
		refused = append(refused, dataplane.ForCaller(marked+name, "openai"))
		s.clock.Advance(dataplane.DownFor)
		_, err := s.resolve(refused[len(refused)-1])
		require.ErrorIs(t, err, dataplane.ErrUnavailable)
		values = append(values, err)
	}
	s.SetFault(dataplanetest.Healthy)
	for _, req := range refused {
		_, err := s.resolve(req)
		require.Error(t, err)
		values = append(values, err)
	}
	wrong := cfg
	wrong.Token = func() string { return "dp_" + marked + "\nx" } // no header takes it
	r, err := dataplane.New(wrong)
	require.NoError(t, err)
	_, err = r.Resolve(t.Context(), req)
	require.Error(t, err)
	values = append(values, err)
	wrong.ControlPlane = "http://user:" + marked + "@127.0.0.1"
	_, err = dataplane.New(wrong)
	require.Error(t, err)
	values = append(values, err)
	for _, v := range values {
		require.NotContains(t, prints(t, v), marked, "%T", v)
		require.NotContains(t, prints(t, v), fmt.Sprintf("%x", marked), "%T", v)
	}
	s.Send("data: " + marked + "\n\n")
	s.opened(2)
	require.NotEmpty(t, log.String())
	require.NotContains(t, log.String(), marked)
	families, err := registry.Gather()
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(families), marked)
}
