package main

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestAdminDataPlaneCreate(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.URL(t))
		owner := newOwnerAfter(t, environ)
		got := aikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme", "--expires", "720h")
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Regexp(t, `^dp_[0-9A-Z]{26}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n$`, got.stdout)
		credential := strings.TrimSuffix(got.stdout, "\n")
		id := strings.Split(credential, "_")[1]
		require.Contains(t, got.stderr, id)
		require.NotContains(t, got.stderr, strings.Split(credential, "_")[2], "notes may be logged")
		require.NotContains(t, got.stderr, "WARNING")
		expires := time.Now().Add(720 * time.Hour).UTC().Format("2006-01-02")
		require.Regexp(t, `^ID +NAME +CREDENTIAL +CUSTOMERS +CREATED +EXPIRES +STATE +STREAMS +CREATED BY +REVOKED +REVOKED BY\n`+
			id+` +edge-1 +token +acme +\S+ +`+expires+`\S+ +active +0 +\S+@\S+ +never +-\n$`,
			mustAikeysd(t, environ, "admin", "dataplane", "list"))

		s := startReady(t, environ)
		require.Equal(t, http.StatusCreated, call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", owner, registerBody("a", fakeSecret)).status)
		fetch := func() reply {
			return call(t, newClient(), http.MethodPost, s.dataplane+"/v1/fetch", credential, `{"credential":"`+owner+`","provider":"openai"}`)
		}
		fetched := fetch()
		require.Equal(t, http.StatusOK, fetched.status, fetched.body)
		require.Contains(t, fetched.body, fakeSecret)
		require.Equal(t, http.StatusUnauthorized, call(t, newClient(), http.MethodPost, s.api+"/v1/aikeys", credential, registerBody("b", fakeSecret)).status,
			"it opens no session of the public API")
		for range 2 { // to revoke again changes nothing
			revoked := aikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "edge-1")
			require.Equal(t, exitOK, revoked.code, revoked.stderr)
			require.Contains(t, revoked.stderr, id)
		}
		s.eventually("it is refused", func() bool { return fetch().status == http.StatusUnauthorized })
		require.Contains(t, mustAikeysd(t, environ, "admin", "dataplane", "list"), "revoked")
		require.Equal(t, exitOK, s.wait())

		list := mustAikeysd(t, environ, "admin", "fetches", "--customer", "acme", "--project", "chat", "--limit", "5")
		require.Regexp(t, `^TIME +DATA PLANE +USER +PROVIDER +KEY +DECISION +REASON\n\S+T\S+\.\d{3}Z +edge-1 +alice +openai +byok_\w{26} +allowed +project_key\n`, list)
	})
}

// newOwnerAfter is newOwner on a database of either kind.
func newOwnerAfter(t *testing.T, environ []string) string {
	t.Helper()
	mustAikeysd(t, environ, "migrate", "up")
	return newOwner(t, environ)
}

func TestAdminDataPlaneCreateForAllCustomers(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	got := aikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "WARNING: no --customer was given")
	require.Contains(t, got.stderr, "ALL customers")
	require.Regexp(t, ` edge-1 +token +\(all\) +\S+ +never +active +0 +\S+@\S+ +never +-\n`, mustAikeysd(t, environ, "admin", "dataplane", "list"))

	mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-2", "--customer", "acme", "--customer", "globex,initech")
	require.Regexp(t, ` edge-2 +token +acme,globex,initech `, mustAikeysd(t, environ, "admin", "dataplane", "list"))
}

func TestAdminDataPlaneCreateForUnknownCustomer(t *testing.T) {
	environ := newEnviron(t)
	newOwnerAfter(t, environ)
	got := aikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme,acmee")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "no project of customer acmee yet")
	require.NotContains(t, got.stderr, "no project of customer acme yet")
}

// Rows of credentials are never deleted. They say who created and who revoked each, and whether it is in use.
func TestAdminDataPlaneListNamesOperators(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.URL(t))
		newOwnerAfter(t, environ)
		credential := strings.TrimSpace(mustAikeysd(t, with(environ, "SUDO_USER=alice"), "admin", "dataplane", "create", "--name", "edge-1"))
		mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-2")
		s := startReady(t, environ)
		s.follow(credential)
		list := mustAikeysd(t, environ, "admin", "dataplane", "list")
		require.Regexp(t, ` edge-1 .* active +1 +alice@\S+ +never +-\n`, list)
		require.Regexp(t, ` edge-2 .* active +0 +\S+@\S+ +never +-\n`, list)
		require.NotRegexp(t, ` edge-2 .* alice`, list)

		mustAikeysd(t, with(environ, "SUDO_USER=bob\x1b[2J"), "admin", "dataplane", "revoke", "--name", "edge-1")
		mustAikeysd(t, with(environ, "SUDO_USER=eve"), "admin", "dataplane", "revoke", "--name", "edge-1") // which changes nothing
		s.eventually("its stream is not counted any more", func() bool {
			list = mustAikeysd(t, environ, "admin", "dataplane", "list")
			return regexp.MustCompile(` edge-1 .* revoked +0 +alice@`).MatchString(list)
		})
		today := time.Now().UTC().Format("2006-01-")
		require.Regexp(t, ` edge-1 .* alice@\S+ +`+today+`\S+ +bob\?\[2J@\S+\n`, list)
		require.Equal(t, exitOK, s.wait())
	})
}

func TestAdminDataPlaneRevokeFreesName(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	create := []string{"admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme"}
	mustAikeysd(t, environ, create...)
	got := aikeysd(t, environ, create...)
	require.Equal(t, exitFailure, got.code)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "run: aikeysd admin dataplane revoke --name edge-1")
	mustAikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "edge-1")
	mustAikeysd(t, environ, create...)
	require.Equal(t, 2, strings.Count(mustAikeysd(t, environ, "admin", "dataplane", "list"), " edge-1 "))
}

func TestAdminDataPlaneRevokeFreesCertificate(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	create := func(name, certificate string) outcome {
		return aikeysd(t, environ, "admin", "dataplane", "create", "--name", name, "--customer", "acme", "--certificate", certificate)
	}
	require.Equal(t, exitOK, create("edge-1", "uri:spiffe://acme/edge").code)
	got := create("edge-2", "uri:spiffe://acme/edge")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "uri:spiffe://acme/edge are those of the active data plane edge-1")
	require.Contains(t, got.stderr, "run: aikeysd admin dataplane revoke --name edge-1")
	got = create("edge-1", "dns:other.internal")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "an active data plane has the name edge-1")
	mustAikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "edge-1")
	require.Equal(t, exitOK, create("edge-2", "uri:spiffe://acme/edge").code)
	require.Regexp(t, ` edge-2 +uri:spiffe://acme/edge +acme .* active `, mustAikeysd(t, environ, "admin", "dataplane", "list"))
}

func TestAdminDataPlaneFailures(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	cases := map[string]struct {
		args []string
		code int
		says []string
	}{
		"no name":            {[]string{"dataplane", "create"}, exitUsage, []string{"--name: is required"}},
		"everything at once": {[]string{"dataplane", "create", "--name", "a/b", "--customer", "..", "--expires", "1y"}, exitUsage, []string{"--name: must be", "--customer: must be", "--expires: must be"}},
		"a certificate's name that is none": {[]string{"dataplane", "create", "--name", "edge-1", "--certificate", "edge-1.internal"}, exitUsage,
			[]string{"--certificate: must be dns:<name>, uri:<name> or cn:<name>"}},
		"nobody to revoke": {[]string{"dataplane", "revoke", "--name", "eve"}, exitFailure, []string{"no data plane has the name eve; see: aikeysd admin dataplane list"}},
		"fetches of no project": {[]string{"fetches", "--customer", "acme", "--project", "new"}, exitFailure,
			[]string{"there is no project acme/new"}},
		"too many fetches":     {[]string{"fetches", "--customer", "acme", "--project", "chat", "--limit", "10001"}, exitUsage, []string{"--limit: must be"}},
		"a token for a name":   {[]string{"dataplane", "revoke", "dp_secret"}, exitUsage, []string{"takes no arguments; see aikeysd admin dataplane revoke --help"}},
		"the name of no flag":  {[]string{"dataplane", "list", "--customer", "acme"}, exitUsage, []string{"--customer"}},
		"a project's database": {[]string{"dataplane", "list", "--database-url", "sqlite:/nowhere/a.db"}, exitFailure, []string{"there is no database at /nowhere/a.db"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, environ, append([]string{"admin"}, tc.args...)...)
			require.Equal(t, tc.code, got.code, got.stderr)
			require.Empty(t, got.stdout)
			for _, says := range tc.says {
				require.Contains(t, got.stderr, says)
			}
			require.NotContains(t, got.stderr, "dp_secret")
		})
	}
}

func TestOldFetchRecordsAreForgottenInBatches(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	_, database, _ := strings.Cut(environ[2], "=")
	insert := `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO fetches (at, data_plane_id, customer_id, project_id, user_id, token_id, provider, key_id, version, decision, reason, request_id)
		SELECT %d + i, 'd', 'acme', 'chat', '', '', 'openai', '', 0, 'denied', 'no_key', '' FROM n`
	tamper(t, database, fmt.Sprintf(insert, 2*cleanupBatch+1, time.Now().Add(-8*24*time.Hour).UnixMicro()))
	tamper(t, database, fmt.Sprintf(insert, 3, time.Now().Add(-6*24*time.Hour).UnixMicro()))
	left := func() any { return rows(t, open(t, database), `SELECT COUNT(*) FROM fetches`)[0][0] }

	require.Equal(t, exitOK, startReady(t, environ, "--fetch-retention", "0").wait())
	require.EqualValues(t, 2*cleanupBatch+4, left(), "they are kept for good")
	s := startReady(t, environ, "--fetch-retention", "7d")
	s.eventually("they are deleted", func() bool { return strings.Contains(s.stderr.String(), `"msg":"old records deleted","kind":"fetch"`) })
	require.Contains(t, s.stderr.String(), fmt.Sprintf(`"records":%d`, 2*cleanupBatch+1))
	require.Equal(t, exitOK, s.wait())
	require.EqualValues(t, 3, left())

	list := mustAikeysd(t, environ, "admin", "fetches", "--customer", "acme", "--project", "chat", "--limit", "2")
	require.Equal(t, 3, strings.Count(list, "\n"), "the head and two")
	require.Regexp(t, ` d +- +openai +- +denied +no_key\n`, list)
}
