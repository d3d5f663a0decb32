package main

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func (i *installation) states() map[string]string {
	i.t.Helper()
	found := map[string]string{}
	for _, line := range strings.Split(i.must("keys", "list"), "\n")[1:] {
		fields := strings.Fields(line)
		require.Equal(i.t, "main", fields[0])
		found[fields[1]] = fields[2]
	}
	return found
}

func TestKeyLifecycleByCommands(t *testing.T) {
	i := install(t)
	first, second := i.create(), i.create()
	require.Equal(t, map[string]string{first: "primary", second: "enabled"}, i.states())
	third := i.must("keys", "create", "--namespace", "main", "--primary")
	require.Equal(t, map[string]string{first: "enabled", second: "enabled", third: "primary"}, i.states())
	i.must("keys", "primary", "--namespace", "main", "--id", second)
	i.must("keys", "retire", "--namespace", "main", "--id", first, "--i-have-checked")
	require.Equal(t, map[string]string{first: "retired", second: "primary", third: "enabled"}, i.states())
	i.must("keys", "enable", "--namespace", "main", "--id", first)
	require.Equal(t, "enabled", i.states()[first])
}

// The audit log says who changed which key, and what state each key had before and after.
func TestKeyChangesAreAudited(t *testing.T) {
	i := install(t)
	log := []string{"SUDO_USER=olga", "SECRETS_SVC_AUDIT_LOG=" + i.path("audit.log")}
	run := func(command string, args ...string) string {
		got := i.run(log, append([]string{"keys", command, "--namespace", "main"}, args...)...)
		require.Equal(t, cli.ExitOK, got.Code, got.Stderr)
		return strings.TrimSpace(got.Stdout)
	}
	first, second := run("create"), run("create", "--primary")
	run("retire", "--id", first, "--i-have-checked")
	run("enable", "--id", first)
	run("primary", "--id", first)
	run("list")
	refused := i.run(log, "keys", "retire", "--namespace", "main", "--id", first, "--i-have-checked")
	require.Equal(t, cli.ExitFailure, refused.Code)

	type change struct {
		Msg, Operator, Command, Namespace string
		KEKID                             string `json:"kek_id"`
		Before, After                     map[string]string
	}
	var got []change
	for line := range strings.Lines(i.read("audit.log")) {
		var c change
		require.NoError(t, json.Unmarshal([]byte(line), &c), line)
		require.Regexp(t, `^olga@\S+$`, c.Operator)
		c.Operator = ""
		got = append(got, c)
	}
	states := func(a, b string) map[string]string { return map[string]string{first: a, second: b} }
	require.Equal(t, []change{
		{"keys", "", "secrets-svc keys create", "main", first, nil, map[string]string{first: "primary"}},
		{"keys", "", "secrets-svc keys create", "main", second, map[string]string{first: "primary"}, states("enabled", "primary")},
		{"keys", "", "secrets-svc keys retire", "main", first, states("enabled", "primary"), states("retired", "primary")},
		{"keys", "", "secrets-svc keys enable", "main", first, states("retired", "primary"), states("enabled", "primary")},
		{"keys", "", "secrets-svc keys primary", "main", first, states("enabled", "primary"), states("primary", "enabled")},
	}, got)

	unwritable := i.run([]string{"SECRETS_SVC_AUDIT_LOG=" + i.path("none/audit.log")}, "keys", "create", "--namespace", "main")
	require.Equal(t, cli.ExitFailure, unwritable.Code)
	require.Contains(t, unwritable.Stderr, "nothing was changed")
	require.Len(t, i.states(), 2)
	full := i.run([]string{"SECRETS_SVC_AUDIT_LOG=/dev/full"}, "keys", "primary", "--namespace", "main", "--id", second)
	require.Equal(t, cli.ExitFailure, full.Code)
	require.Contains(t, full.Stderr, second+" of namespace main was changed, and the audit log does not have it")
	toError := i.run(nil, "keys", "create", "--namespace", "main")
	require.Contains(t, toError.Stderr, `"command":"secrets-svc keys create"`)
	require.NotContains(t, toError.Stdout, "command")
}

func TestRefusedKeyCommands(t *testing.T) {
	i := install(t)
	first := i.create()
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"keys create":                                      {cli.ExitUsage, "--namespace: is required"},
		"keys create --namespace ../main":                  {cli.ExitUsage, "--namespace: must be"},
		"keys create main":                                 {cli.ExitUsage, "takes no arguments; use --namespace, --id"},
		"keys primary --namespace main":                    {cli.ExitUsage, "--id: is required"},
		"keys primary --namespace main --id local:0":       {cli.ExitFailure, "is not in the keyset"},
		"keys primary --namespace other --id " + first:     {cli.ExitFailure, "keys create --namespace other"},
		"keys retire --namespace main --id " + first:       {cli.ExitFailure, "the primary key-encryption key can't be retired"},
		"keys retire --namespace main --id local:00000000": {cli.ExitFailure, "is not in the keyset"},
		"keys delete":                                      {cli.ExitUsage, "it has create, list, primary, enable, retire"},
	} {
		got := i.run(nil, strings.Fields(line)...)
		require.Equal(t, want.code, got.Code, line)
		require.Contains(t, got.Stderr, want.says, line)
		require.Empty(t, got.Stdout, line)
	}
	require.Equal(t, map[string]string{first: "primary"}, i.states())
}

func TestConcurrentKeyCommands(t *testing.T) {
	i := install(t)
	const commands = 12
	ids := make([]string, commands)
	var wg sync.WaitGroup
	for n := range commands {
		wg.Go(func() {
			got := i.run(nil, "keys", "create", "--namespace", "main")
			ids[n] = strings.TrimSpace(got.Stdout)
			got = i.run(nil, "keys", "primary", "--namespace", "main", "--id", ids[n])
			if got.Code != cli.ExitOK {
				t.Error(got.Stderr)
			}
		})
	}
	wg.Wait()
	states := i.states()
	primaries := 0
	for _, id := range ids {
		require.Contains(t, states, id)
		if states[id] == "primary" {
			primaries++
		}
	}
	require.Equal(t, 1, primaries)
}

func TestKeysRetireNeedsACount(t *testing.T) {
	i := install(t)
	old := i.create()
	i.must("keys", "primary", "--namespace", "main", "--id", i.create())
	got := i.run(nil, "keys", "retire", "--namespace", "main", "--id", old)
	require.Equal(t, cli.ExitFailure, got.Code)
	require.Contains(t, got.Stderr, "first run: aikeysd keys in-use --kek "+old)
	require.Contains(t, got.Stderr, "--i-have-checked")
	require.Equal(t, "enabled", i.states()[old])

	got = i.run(nil, "keys", "retire", "--namespace", "main", "--id", old, "--i-have-checked")
	require.Equal(t, cli.ExitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stderr, "run once more: aikeysd keys in-use --kek "+old)
	require.Equal(t, "retired", i.states()[old])
}

// Sixteen callers seal and open secrets during a rotation that follows the runbook. None of them gets an error.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	const callers = 16
	i := install(t)
	first := i.create()
	i.launch()
	client := i.client()
	old := sealertest.MustSeal(t, client)
	require.Equal(t, first, old.KEKID)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var operations atomic.Int64
	ctx := context.Background()
	for range callers {
		wg.Go(func() {
			for !stop.Load() {
				envelope, err := client.Seal(ctx, sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
				if err != nil {
					t.Error(err)
					return
				}
				secret, err := client.Open(ctx, sealertest.Binding(), envelope.Bytes)
				if err != nil || string(secret.Reveal()) != sealertest.Secret {
					t.Error(err)
					return
				}
				operations.Add(1)
			}
		})
	}
	second := i.create()
	i.must("keys", "primary", "--namespace", "main", "--id", second)
	require.Eventually(t, func() bool { return sealertest.MustSeal(t, client).KEKID == second }, patience, often)
	rewrapped, err := client.Rewrap(ctx, sealertest.Binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, second, rewrapped.KEKID)
	before := operations.Load()
	require.Eventually(t, func() bool { return operations.Load() > before+100 }, patience, often)
	i.must("keys", "retire", "--namespace", "main", "--id", first, "--i-have-checked")
	stop.Store(true)
	wg.Wait()
	sealertest.RequireOpens(t, client, rewrapped.Bytes)
	require.Eventually(t, func() bool {
		_, err := client.Open(ctx, sealertest.Binding(), old.Bytes)
		return err != nil
	}, patience, often)
	i.must("keys", "enable", "--namespace", "main", "--id", first)
	sealertest.RequireOpens(t, client, old.Bytes)
}
