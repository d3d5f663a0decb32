package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// A busy session leaves no secret in the process's output, its files or the process table, and no decoded secret in its
// memory; docs/secrets.md says what else may be found.
func TestNoSecretIsLeftBehind(t *testing.T) {
	t.Parallel()
	canary := func(n int) string { return fmt.Sprintf("sk-canary-%08d-hunter2", n) }
	// forms are the encodings in which a canary, or the part common to all canaries, could appear.
	const mark = "-hunter2"
	forms := []string{"canary", mark, hex.EncodeToString([]byte(mark))}
	for shift := range 3 { // its base64, for each place in a text at which it may begin
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + mark))
		forms = append(forms, encoded[(shift*8+5)/6:len(mark)*8/6-1])
	}
	shownIn := func(text []byte) string {
		for _, form := range forms {
			if bytes.Contains(text, []byte(form)) {
				return form
			}
		}
		return ""
	}
	// sealWrongly seals and opens a secret, and opens it under another binding.
	sealWrongly := func(client sealer.Sealer, secret string) error {
		ctx := context.Background()
		envelope, err := client.Seal(ctx, sealertest.Binding(), sealer.NewSecret([]byte(secret)))
		if err != nil {
			return err
		}
		opened, err := client.Open(ctx, sealertest.Binding(), envelope.Bytes)
		if err != nil || string(opened.Reveal()) != secret {
			return errors.Join(err, errors.New("opened as another"))
		}
		other := sealertest.Binding()
		other.CustomerID = "globex"
		if _, err = client.Open(ctx, other, envelope.Bytes); !errors.Is(err, sealer.ErrBinding) {
			return errors.Join(errors.New("opened elsewhere"), err)
		}
		return nil
	}
	t.Run("a canary is found in all its forms", func(t *testing.T) {
		for n := range 30 {
			text := strings.Repeat("y", n%3) + canary(n)
			for _, shown := range []string{text, base64.StdEncoding.EncodeToString([]byte(text)), hex.EncodeToString([]byte(text))} {
				require.NotEmpty(t, shownIn([]byte(shown)), shown)
			}
		}
		require.Empty(t, shownIn([]byte(base64.StdEncoding.EncodeToString([]byte("a text without any")))))
	})
	t.Run("in memory", func(t *testing.T) { // only root can look: the service's own user can't
		const secrets, atTheMost = 400, 20
		i := install(t)
		i.create()
		i.launch()
		client := i.client()
		for n := range secrets {
			require.NoError(t, sealWrongly(client, canary(n)))
		}
		memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", i.pid))
		if os.Geteuid() != 0 {
			require.ErrorIs(t, err, os.ErrPermission)
			return
		}
		require.NoError(t, err)
		defer func() { _ = memory.Close() }()
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", i.pid))
		require.NoError(t, err)
		found := map[string]bool{}
		for line := range strings.Lines(string(maps)) {
			var start, end uint64
			var rights string
			_, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &rights)
			require.NoError(t, err)
			if !strings.HasPrefix(rights, "rw") {
				continue
			}
			text := make([]byte, end-start)
			n, _ := memory.ReadAt(text, int64(start)) // the process may have unmapped a part since
			for _, form := range forms[1:3] {         // as text and in hexadecimal digits: the base64 of requests is not wiped
				for at := 0; ; at += len(form) {
					next := bytes.Index(text[at:n], []byte(form))
					if next < 0 {
						break
					}
					at += next
					found[string(text[max(0, at-24):at])] = true // which of the secrets it is
				}
			}
		}
		require.LessOrEqual(t, len(found), atTheMost, "%q", found)
	})
	t.Run("in logs, files and the process table", func(t *testing.T) {
		i := install(t)
		i.create()
		s := i.launch("--log-level", "debug")
		client := i.client()
		var wg sync.WaitGroup
		for caller := range 8 {
			wg.Go(func() {
				for n := range 25 {
					if err := sealWrongly(client, canary(100*caller+n)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		// Secrets in fields and places where they do not belong:
		encoded, secret := base64.StdEncoding.EncodeToString([]byte(canary(1))), canary(2)
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", i.path("api.sock"))
		}}
		defer transport.CloseIdleConnections()
		raw := &http.Client{Transport: transport}
		const of = `"binding": {"customer_id": "c", "project_id": "p", "key_id": "k", "provider": "openai", "version": 1}`
		for _, body := range []string{
			`{` + of + `, "secret": "` + secret + `"}`, `{` + of + `, "secret": "` + encoded + `", "` + secret + `": 1}`,
			`{` + of + `, "secret": "` + encoded, `{` + of + `, "secret": "` + encoded + `", "secret": "` + encoded + `"}`,
			`{"secret": ["` + secret + `"]}`, `"` + secret + `"`, secret, `{"secret": "` + strings.Repeat(encoded, 40_000) + `"}`,
			`{` + of + `, "envelope": "` + encoded + `"}`, `{"items": [{"envelope": "` + secret + `"}]}`,
		} {
			for _, path := range []string{"/v1/seal", "/v1/open", "/v1/rewrap", "/" + secret, "/v1/keks?" + secret + "=1"} {
				req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://secrets-svc"+path, strings.NewReader(body))
				require.NoError(t, err)
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+secret)
				reply, err := raw.Do(req)
				require.NoError(t, err)
				answer, err := io.ReadAll(reply.Body)
				require.NoError(t, err)
				require.NoError(t, reply.Body.Close())
				require.GreaterOrEqual(t, reply.StatusCode, http.StatusBadRequest, "%s %s", path, body)
				require.Empty(t, shownIn(answer), path)
			}
		}
		i.must("keys", "create", "--namespace", "main", "--primary")
		for _, args := range [][]string{{"keys", "create", "--namespace", "/" + canary(3)}, {"keys", canary(4)}, {"serve", canary(5)},
			{"keys", "primary", "--namespace", "main", "--secret", canary(6)}} {
			got := i.run(nil, args...)
			require.NotEqual(t, cli.ExitOK, got.Code)
			if args[1] != canary(4) { // the error names an unknown command
				require.Empty(t, shownIn([]byte(got.Stdout+got.Stderr)), "%v", args)
			}
		}
		process := fmt.Sprintf("/proc/%d/", i.pid)
		for _, file := range []string{"environ", "cmdline", "status", "maps", "comm"} {
			text, err := os.ReadFile(process + file)
			require.NoError(t, err)
			require.Empty(t, shownIn(text), file)
		}
		limits, err := os.ReadFile(process + "limits")
		require.NoError(t, err)
		require.Regexp(t, `Max core file size +0 +0 `, string(limits))
		for _, path := range []string{"/metrics", "/readyz"} {
			got := programtest.Send(http.MethodGet, s.URL("ops")+path, "", "")
			require.Empty(t, shownIn([]byte(got.Body)), path)
		}
		require.Zero(t, s.Stop())
		keysets := 0
		require.NoError(t, filepath.WalkDir(i.dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Empty(t, shownIn(text), path)
			if strings.HasSuffix(path, ".json") {
				keysets++
			}
			return nil
		}))
		require.Equal(t, 1, keysets)
		require.Empty(t, shownIn([]byte(s.Output())))
		require.Equal(t, 401, strings.Count(s.Stdout.String(), "\n"))
		require.Contains(t, s.Stderr.String(), `"status":400`)
	})
}

func TestLockedMemoryWhenRequired(t *testing.T) {
	i := install(t)
	i.create()
	if mayLock() != nil {
		got := i.run(nil, "serve", "--lock-memory", "require")
		require.Equal(t, cli.ExitFailure, got.Code)
		require.Contains(t, got.Stderr, "LimitMEMLOCK=infinity")
		return
	}
	i.launch("--lock-memory", "require")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.pid))
	require.NoError(t, err)
	require.NotContains(t, string(status), "VmLck:\t       0 kB")
	sealertest.RequireOpens(t, i.client(), sealertest.MustSeal(t, i.client()).Bytes)
}
