package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/remote"
)

// The process that faces the internet has the right to seal and no other, at a real secrets-svc.
func TestThePublicRoleNeedsNoRightToOpen(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		service := newSecretsService(t, "seal")
		service.setClients(`{name: public, certificates: [cn:public.internal], namespace: main, may: [seal]},
			{name: planes, certificates: [cn:planes.internal], namespace: main, may: [open, status]},
			{name: strange, certificates: [cn:strange.internal], namespace: other, may: [seal]}`)
		_, err := local.AddKEK(filepath.Join(service.dir, "other.json"))
		require.NoError(t, err)
		named := service.startTLS()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		publicEnviron := with(environ, append(named("public.internal"), "AIKEYS_ROLE=public")...)
		planesEnviron := with(environ, append(named("planes.internal"), "AIKEYS_ROLE=dataplane")...)

		public, planes := begin(t, publicEnviron, "serve"), begin(t, planesEnviron, "serve") // in any order: each waits for the other
		public.awaitLog(`"msg":"ready"`)
		planes.awaitLog(`"msg":"ready"`)
		owner, plane := newOwner(t, environ), newDataPlane(t, environ)

		id := public.register(owner, "a")
		fetched := planes.fetch(plane, id)
		require.Equal(t, http.StatusOK, fetched.status, fetched.body)
		require.Contains(t, fetched.body, fakeSecret)
		lines := planes.follow(client, plane)
		revoked := call(t, http.MethodDelete, public.api+"/v1/aikeys/"+id, owner, "")
		require.Contains(t, revoked.body, `"data_planes":1`, "the other process has the stream")
		received := false
		for line := range lines {
			if received = strings.Contains(line, id) && strings.Contains(line, "key.revoked"); received {
				break
			}
		}
		require.True(t, received)
		require.Equal(t, http.StatusForbidden, planes.fetch(plane, id).status)
		leaks := call(t, http.MethodPost, public.api+"/v1/customers/-/projects/-/leaks", owner, `{"values":["`+fakeSecret+`"],"revoke":false}`)
		require.Contains(t, leaks.body, id)

		require.Empty(t, public.dataplane)
		require.Empty(t, planes.api)
		require.Equal(t, http.StatusNotFound, call(t, http.MethodPost, public.api+"/v1/fetch", plane, `{"key_id":"`+id+`"}`).status)
		require.Equal(t, http.StatusNotFound, planes.get(planes.dataplane+"/v1/aikeys", owner).status)
		require.Equal(t, http.StatusOK, public.get(public.api+"/docs", "").status)
		for _, s := range []*server{public, planes} {
			require.JSONEq(t, `{"ready":true,"checks":{"service":"ok","database":"ok","schema":"ok","keyset":"ok"}}`, s.get(s.ops+"/readyz", "").body)
		}

		// A KEK that becomes primary once the other process has seen it takes no register with it.
		kek, err := local.AddKEK(filepath.Join(service.dir, "main.json"))
		require.NoError(t, err)
		require.NoError(t, local.SetPrimary(filepath.Join(service.dir, "main.json"), kek))
		body := registerBody("b")
		public.eventually("a register under the new KEK", func() bool {
			got := call(t, http.MethodPost, public.api+"/v1/aikeys", owner, body)
			require.Contains(t, []int{http.StatusCreated, http.StatusServiceUnavailable}, got.status, got.body)
			body = registerBody("b" + got.header.Get("X-Request-Id"))
			return got.status == http.StatusCreated && strings.Contains(aikeysd(t, planesEnviron, "check").stdout, kek+"  primary  1 ")
		})

		report := mustAikeysd(t, publicEnviron, "check")
		require.Regexp(t, `settings +ok +public API on 127.0.0.1:0, ops on`, report)
		require.Regexp(t, `keyset +ok +secrets\+https://.* seals with this database's keyset`, report)
		require.Regexp(t, `keys +- +not checked: the role public may only seal`, report)
		require.Regexp(t, `settings +ok +data-plane API on 127.0.0.1:0, ops on`, mustAikeysd(t, planesEnviron, "check"))
		require.Equal(t, exitUsage, aikeysd(t, publicEnviron, "check", "--deep").code)
		strange := aikeysd(t, with(publicEnviron, named("strange.internal")...), "check")
		require.Equal(t, exitFailure, strange.code)
		require.Regexp(t, `keyset +FAILED +.*has found the sealer's key-encryption key in this database's keyset`, strange.stdout)

		require.Equal(t, exitOK, public.wait())
		require.Equal(t, exitOK, planes.wait())
		audit, err := os.ReadFile(filepath.Join(service.dir, "audit.log"))
		require.NoError(t, err)
		require.Contains(t, string(audit), `"client":"planes"`)
		opens := regexp.MustCompile(`"client":"public".*"key_id":"(.*?)".*"outcome":"(.*?)"`).FindAllStringSubmatch(string(audit), -1)
		require.Len(t, opens, 1, "it opens the canary for the key of fingerprints, and was never refused anything")
		require.Equal(t, []string{"canary", "opened"}, opens[0][1:])
	})
}

// The public role waits until another process has brought the schema up to date.
func TestThePublicRoleChangesNoSchema(t *testing.T) {
	t.Parallel()
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+modelstest.EngineSQLite.URL(t))
	s := begin(t, environ, "serve", "--role", "public")
	s.awaitLog(`"waiting_for":"schema"`)
	require.Contains(t, s.stderr.String(), "AIKEYS_ROLE=public; run: aikeysd migrate up")
	require.Contains(t, mustAikeysd(t, environ, "migrate", "status"), "pending")
	require.Equal(t, exitOK, s.wait())
}

// Were the process taken over, it could not open what it has sealed.
func TestTheClientOfThePublicRoleOpensNothing(t *testing.T) {
	t.Parallel()
	service := newSecretsService(t, "seal").start()
	backend, err := remote.New(remote.Config{Socket: filepath.Join(service.dir, "api.sock")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, backend.Close()) })
	binding := sealer.Binding{CustomerID: "acme", ProjectID: "chat", KeyID: "byok_1", Provider: "openai", Version: 1}
	var envelope sealer.Envelope
	require.Eventually(t, func() bool {
		envelope, err = backend.Seal(t.Context(), binding, sealer.NewSecret([]byte(fakeSecret)))
		return err == nil
	}, patience, 5*time.Millisecond, "%s", &service.stderr)
	_, err = backend.Open(t.Context(), binding, envelope.Bytes)
	require.ErrorIs(t, err, remote.ErrNotAllowed)
	_, err = backend.Rewrap(t.Context(), binding, envelope.Bytes)
	require.ErrorIs(t, err, remote.ErrNotAllowed)
}

// The public role seals only with key-encryption keys that a process with the right to open has checked.
func TestThePublicRoleSealsNothingUnderAStrangeKEK(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	require.Equal(t, exitOK, startReady(t, environ).wait())
	s := begin(t, with(environ, "AIKEYS_SEALER=local:"+filepath.Join(t.TempDir(), "other.json")), "serve", "--role", "public")
	s.awaitLog(`"waiting_for":"keyset"`)
	for _, says := range []string{"check that AIKEYS_SEALER=local:", "an aikeysd of the role dataplane or all runs with it", "the keyset file opens secrets too"} {
		require.Contains(t, s.stderr.String(), says)
	}
	require.Equal(t, http.StatusServiceUnavailable, call(t, http.MethodPost, s.api+"/v1/aikeys", token, registerBody("a")).status)
	require.Equal(t, http.StatusServiceUnavailable, s.get(s.ops+"/readyz", "").status)
	require.Equal(t, exitOK, s.wait())
}
