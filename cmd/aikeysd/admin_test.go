package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// runAdmin runs an admin command on acme/chat.
func runAdmin(t *testing.T, environ []string, args ...string) outcome {
	t.Helper()
	return aikeysd(t, environ, append(append([]string{"admin"}, args...), "--customer", "acme", "--project", "chat")...)
}

func TestAdminTokenCreate(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.URL(t))
		mustAikeysd(t, environ, "migrate", "up")
		require.Equal(t, exitOK, runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner").code)
		got := runAdmin(t, environ, "token", "create", "--user", "alice", "--expires", "720h")
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Regexp(t, `^ak_[0-9A-Z]{26}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n$`, got.stdout)
		token := strings.TrimSuffix(got.stdout, "\n")
		id := strings.Split(token, "_")[1]
		require.Contains(t, got.stderr, id)
		require.NotContains(t, got.stderr, strings.Split(token, "_")[2], "notes may be logged")

		list := runAdmin(t, environ, "token", "list").stdout
		expires := time.Now().Add(720 * time.Hour).UTC().Format("2006-01-02")
		require.Regexp(t, `ID +USER +CREATED +EXPIRES +STATE\n`+id+` +alice +\S+ +`+expires+`\S+ +active\n`, list)
		require.Equal(t, 1, strings.Count(runAdmin(t, environ, "token", "list", "--user", "bob").stdout, "\n"), "the head alone")

		s := startReady(t, environ)
		whoami := func() int { return call(t, newClient(), http.MethodGet, s.api+"/v1/whoami", token, "").status }
		require.Equal(t, http.StatusOK, whoami())
		for range 2 { // to revoke again changes nothing
			require.Equal(t, exitOK, runAdmin(t, environ, "token", "revoke", "--id", id).code)
		}
		s.eventually("the service refuses it", func() bool { return whoami() == http.StatusUnauthorized })
		require.Contains(t, runAdmin(t, environ, "token", "list").stdout, "revoked")
		require.Equal(t, exitOK, s.wait())
	})
}

func TestAdminCommandsAreInAuditTrail(t *testing.T) {
	environ := newEnviron(t)
	token := newOwner(t, environ)
	for _, args := range [][]string{
		{"member", "set", "--user", "bob", "--role", "member"},
		{"token", "create", "--user", "bob"},
		{"member", "remove", "--user", "bob"},
	} {
		require.Equal(t, exitOK, runAdmin(t, environ, args...).code)
	}
	bob := regexp.MustCompile(`[0-9A-Z]{26}`).FindString(runAdmin(t, environ, "token", "list", "--user", "bob").stdout)
	require.Equal(t, exitOK, runAdmin(t, environ, "token", "revoke", "--id", bob).code)
	require.Equal(t, exitOK, runAdmin(t, environ, "token", "revoke", "--id", bob).code)
	// What is refused leaves no trace.
	require.Equal(t, exitFailure, runAdmin(t, environ, "member", "remove", "--user", "alice").code)

	s := startReady(t, environ)
	var trail struct {
		Events []struct {
			Type, Outcome string
			MemberID      string `json:"member_id"`
			Role          string
			Actor         struct{ Method string }
		}
	}
	reply := call(t, newClient(), http.MethodGet, s.api+"/v1/customers/-/projects/-/events", token, "")
	require.NoError(t, json.Unmarshal([]byte(reply.body), &trail), reply.body)
	var got []string
	for _, e := range trail.Events {
		require.Equal(t, "admin", e.Actor.Method)
		require.Equal(t, "allowed", e.Outcome)
		got = append(got, strings.TrimSpace(e.Type+" "+e.MemberID+" "+e.Role))
	}
	about := rows(t, open(t, strings.TrimPrefix(environ[2], "AIKEYS_DATABASE_URL=")),
		`SELECT type, token_id FROM events WHERE type LIKE 'token.%' ORDER BY id DESC`)
	require.Equal(t, [][]any{{"token.revoked", bob}, {"token.created", bob}, {"token.created", strings.Split(token, "_")[1]}}, about)
	require.Equal(t, []string{
		"token.revoked bob", "member.removed bob", "token.created bob", "member.set bob member", "token.created alice", "member.set alice owner",
	}, got)
}

func TestAdminFailures(t *testing.T) {
	environ := newEnviron(t)
	newOwner(t, environ)
	long := strings.Repeat("x", 65)
	cases := map[string]struct {
		args []string
		code int
		says []string
	}{
		"the first member is no owner": {[]string{"admin", "member", "set", "--customer", "acme", "--project", "new", "--user", "bob", "--role", "member"},
			exitFailure, []string{"acme/new needs one", "--role owner"}},
		"the last owner steps down": {[]string{"admin", "member", "set", "--customer", "acme", "--project", "chat", "--user", "alice", "--role", "member"},
			exitFailure, []string{"another user an owner first"}},
		"the last owner leaves": {[]string{"admin", "member", "remove", "--customer", "acme", "--project", "chat", "--user", "alice"},
			exitFailure, []string{"another user an owner first"}},
		"a stranger leaves": {[]string{"admin", "member", "remove", "--customer", "acme", "--project", "chat", "--user", "eve"},
			exitFailure, []string{"eve is no member of acme/chat", "see: aikeysd admin member list --customer acme --project chat"}},
		"a token for a stranger": {[]string{"admin", "token", "create", "--customer", "acme", "--project", "chat", "--user", "eve"},
			exitFailure, []string{"eve is no member of acme/chat", "aikeysd admin member set --customer acme --project chat --user eve --role member"}},
		"a token for the first of a new project": {[]string{"admin", "token", "create", "--customer", "acme", "--project", "new", "--user", "eve"},
			exitFailure, []string{"aikeysd admin member set --customer acme --project new --user eve --role owner"}},
		"the members of no project": {[]string{"admin", "member", "list", "--customer", "acme", "--project", "new"},
			exitFailure, []string{"there is no project acme/new in sqlite:/"}},
		"the tokens of no project": {[]string{"admin", "token", "list", "--customer", "acme", "--project", "new"},
			exitFailure, []string{"there is no project acme/new in sqlite:/"}},
		"a lifetime that is none": {[]string{"admin", "token", "create", "--customer", "acme", "--project", "chat", "--user", "alice", "--expires", "1y"},
			exitUsage, []string{"--expires: must be hours or days above zero, such as 720h or 30d"}},
		"a lifetime that is empty": {[]string{"admin", "token", "create", "--customer", "acme", "--project", "chat", "--user", "alice", "--expires", ""},
			exitUsage, []string{"--expires: must be hours or days"}},
		"a token of another project": {[]string{"admin", "token", "revoke", "--customer", "acme", "--project", "chat", "--id", "01JD8Q6Z3V8M2T5K7N9R4W1XYZ"},
			exitFailure, []string{"no API key with this id"}},
		"a token in place of its id": {[]string{"admin", "token", "revoke", "--customer", "acme", "--project", "chat", "--id", "ak_secret"},
			exitUsage, []string{"--id", "never give the API key itself"}},
		"a token that is over before it begins": {[]string{"admin", "token", "create", "--customer", "acme", "--project", "chat", "--user", "alice", "--expires", "-1h"},
			exitUsage, []string{"--expires"}},
		"no role": {[]string{"admin", "member", "set", "--customer", "acme", "--project", "chat", "--user", "bob"},
			exitUsage, []string{"--role: must be owner or member"}},
		"no ids, all at once": {[]string{"admin", "member", "set", "--role", "owner"},
			exitUsage, []string{"--customer: is required", "--project: is required", "--user: is required"}},
		"ids that are none": {[]string{"admin", "member", "set", "--customer", "-", "--project", "a/b", "--user", "..", "--role", "owner"},
			exitUsage, []string{"--customer: must be", "--project: must be", "--user: must be"}},
		"an id that is too long": {[]string{"admin", "member", "list", "--customer", long, "--project", "chat"},
			exitUsage, []string{"--customer: must be"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := aikeysd(t, environ, tc.args...)
			require.Equal(t, tc.code, got.code, got.stderr)
			require.Empty(t, got.stdout)
			for _, says := range tc.says {
				require.Contains(t, got.stderr, says)
			}
			require.NotContains(t, got.stderr, "ak_secret")
		})
	}
}

func TestAdminOnPostgresNeedsSchema(t *testing.T) {
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+modelstest.Postgres(t))
	got := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "run: aikeysd migrate up")
}

func TestDatabaseErrorHidesPassword(t *testing.T) {
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL=postgres://aikeys:hunter2@127.0.0.1:1/keys")
	for _, args := range [][]string{{"migrate", "up"}, {"migrate", "status"}, {"admin", "token", "list", "--customer", "a", "--project", "b"}} {
		got := aikeysd(t, environ, args...)
		require.Equal(t, exitFailure, got.code)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.Contains(t, got.stderr, "check that postgres://127.0.0.1:1/keys can be reached")
		require.NotContains(t, got.stderr, "hunter2")
	}
}

func TestCredentialStates(t *testing.T) {
	now := time.Now().UnixMicro()
	state := func(token models.Token) string { return credentialState(token.RevokedAt, token.Live(now)) }
	require.Equal(t, "active", state(models.Token{}))
	require.Equal(t, "active", state(models.Token{ExpiresAt: now + 1}))
	require.Equal(t, "expired", state(models.Token{ExpiresAt: now}))
	require.Equal(t, "revoked", state(models.Token{RevokedAt: 1, ExpiresAt: now}))
}

func TestAdminCreatesDatabaseForOwnerOnly(t *testing.T) {
	t.Chdir(t.TempDir())
	environ := []string{"AIKEYS_DATABASE_URL=sqlite:data/aikeys.db"}
	path, err := filepath.Abs("data/aikeys.db")
	require.NoError(t, err)
	for _, args := range [][]string{
		{"member", "list"},
		{"member", "remove", "--user", "alice"},
		{"member", "set", "--user", "alice", "--role", "member"},
		{"token", "list"},
		{"token", "create", "--user", "alice"},
		{"token", "revoke", "--id", "01JD8Q6Z3V8M2T5K7N9R4W1XYZ"},
	} {
		got := runAdmin(t, environ, args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Contains(t, got.stderr, "there is no database at "+path, args)
		require.NoDirExists(t, "data", args)
	}
	got := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "made a new database at "+path+"\nalice is owner of acme/chat in sqlite:"+path+"\n", got.stderr)
	got = runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member")
	require.Equal(t, "bob is member of acme/chat in sqlite:"+path+"\n", got.stderr, "told once")
}

func TestAdminNotesNameDatabase(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+url)
		mustAikeysd(t, environ, "migrate", "up")
		notes := []string{runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner").stderr}
		notes = append(notes, runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member").stderr)
		created := runAdmin(t, environ, "token", "create", "--user", "bob")
		notes = append(notes, created.stderr)
		notes = append(notes, runAdmin(t, environ, "token", "revoke", "--id", strings.Split(created.stdout, "_")[1]).stderr)
		notes = append(notes, runAdmin(t, environ, "member", "remove", "--user", "bob").stderr)
		for _, note := range notes {
			require.Contains(t, note, "acme/chat in "+databaseName(url))
		}
	})
}

func TestAdminHintsRepeatDatabaseFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "it's here", "a.db")
	got := runAdmin(t, nil, "member", "set", "--user", "alice", "--role", "owner", "--database-url", "sqlite:"+path)
	require.Equal(t, exitOK, got.code, got.stderr)
	got = runAdmin(t, nil, "member", "remove", "--user", "eve", "--database-url", "sqlite:"+path)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `aikeysd admin member list --customer acme --project chat --database-url 'sqlite:`+strings.ReplaceAll(path, "'", `'\''`)+"'")
}
