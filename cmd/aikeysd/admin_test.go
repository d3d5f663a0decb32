package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/programtest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestAdminTokens(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		newOwner(t, environ)
		got := runAdmin(t, environ, "token", "create", "--user", "alice", "--expires", "720h")
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Regexp(t, `^ak_[0-9A-Z]{26}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n$`, got.Stdout)
		token := strings.TrimSuffix(got.Stdout, "\n")
		id := strings.Split(token, "_")[1]
		require.Contains(t, got.Stderr, id)
		require.NotContains(t, got.Stderr, strings.Split(token, "_")[2], "notes may be logged")

		expires := time.Now().Add(720 * time.Hour).UTC().Format("2006-01-02")
		require.Regexp(t, `^ID +USER +CREATED +EXPIRES +STATE\n(.*\n)*`+id+` +alice +\S+ +`+expires+`\S+ +active\n`, runAdmin(t, environ, "token", "list").Stdout)
		require.Equal(t, 1, strings.Count(runAdmin(t, environ, "token", "list", "--user", "bob").Stdout, "\n"), "the head alone")

		s := startReady(t, environ)
		require.Equal(t, http.StatusOK, s.get(s.api+"/v1/whoami", token).Status)
		for range 2 { // to revoke again changes nothing
			require.Equal(t, exitOK, runAdmin(t, environ, "token", "revoke", "--id", id).Code)
		}
		s.Await("the service refuses it", func() bool { return s.get(s.api+"/v1/whoami", token).Status == http.StatusUnauthorized })
		require.Regexp(t, id+` .* revoked\n`, runAdmin(t, environ, "token", "list").Stdout)
		require.Equal(t, exitOK, s.Stop())
	})
}

func TestAdminCommandsAreInAuditTrail(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	token := newOwner(t, environ)
	for _, args := range [][]string{
		{"member", "set", "--user", "bob", "--role", "member"},
		{"token", "create", "--user", "bob"},
		{"member", "remove", "--user", "bob"},
	} {
		require.Equal(t, exitOK, runAdmin(t, environ, args...).Code)
	}
	bob := regexp.MustCompile(`[0-9A-Z]{26}`).FindString(runAdmin(t, environ, "token", "list", "--user", "bob").Stdout)
	require.Equal(t, exitOK, runAdmin(t, environ, "token", "revoke", "--id", bob).Code)
	require.Equal(t, exitOK, runAdmin(t, environ, "token", "revoke", "--id", bob).Code)
	// A refused command leaves no trace.
	require.Equal(t, exitFailure, runAdmin(t, environ, "member", "remove", "--user", "alice").Code)

	s := startReady(t, environ)
	var trail struct {
		Events []struct {
			Type, Outcome string
			MemberID      string `json:"member_id"`
			Role          string
			Actor         struct {
				Method string
				UserID string `json:"user_id"`
			}
		}
	}
	reply := s.get(s.api+"/v1/customers/-/projects/-/events", token)
	require.NoError(t, json.Unmarshal([]byte(reply.Body), &trail), reply.Body)
	var got []string
	for _, e := range trail.Events {
		require.Equal(t, "admin", e.Actor.Method)
		require.Regexp(t, `^\S+@\S+$`, e.Actor.UserID, "the operator")
		require.Equal(t, "allowed", e.Outcome)
		got = append(got, strings.TrimSpace(e.Type+" "+e.MemberID+" "+e.Role))
	}
	about := query(t, databaseOf(environ), `SELECT type, token_id FROM events WHERE type LIKE 'token.%' ORDER BY id DESC`)
	require.Equal(t, [][]any{{"token.revoked", bob}, {"token.created", bob}, {"token.created", strings.Split(token, "_")[1]}}, about)
	require.Equal(t, [][]any{{int64(30 * 24 * time.Hour / time.Microsecond)}}, query(t, databaseOf(environ), `SELECT restore_until - removed_at FROM member_removals`))
	require.Equal(t, []string{
		"token.revoked bob", "member.removed bob", "token.created bob", "member.set bob member", "token.created alice", "member.set alice owner",
	}, got)
}

// The system trail records what the events of projects leave out: data planes, key-encryption keys, re-wraps, and what
// operators read.
func TestSystemTrailNamesOperators(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		i := install(t, with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t)), 1)
		olga := with(i.environ, "SUDO_USER=olga")
		from := time.Now().UTC().Format(time.RFC3339Nano)
		type event struct {
			Type, Actor, Command, Subject string
			Project                       string `json:"project_id"`
			Before, After                 json.RawMessage
		}
		trail := func(args ...string) (events []event) {
			got := mustAikeysd(t, i.environ, append([]string{"admin", "events", "-o", "json"}, args...)...)
			var report struct{ Events []event }
			require.NoError(t, json.Unmarshal([]byte(got), &report), got)
			slices.Reverse(report.Events)
			return report.Events
		}
		keks := func() []event { return trail("--type", "keks.changed") }
		i.Await("the service records its key-encryption key", func() bool { return len(keks()) == 1 })
		first := keks()[0]
		require.Equal(t, "aikeysd serve", first.Command)
		require.Regexp(t, `^\{\s*"local:[0-9a-f]+": "primary"\s*\}$`, string(first.After))
		next := i.rotate()
		i.Await("the service records the rotation", func() bool { return len(keks()) == 2 })
		rotation := keks()[1]
		require.JSONEq(t, string(first.After), string(rotation.Before))
		require.Contains(t, string(rotation.After), `"`+next+`": "primary"`)

		mustAikeysd(t, with(i.environ, "SUDO_USER=bob"), "rewrap")
		for _, command := range []string{"dataplane create --name edge-9 --customer acme", "dataplane revoke --name edge-9",
			"member set --customer acme --project chat --user carol --role member", "key list --customer acme --project chat",
			"token list --customer acme --project chat", "fetches --customer acme --project chat", "member list --customer acme --project chat"} {
			mustAikeysd(t, olga, append([]string{"admin"}, strings.Fields(command)...)...)
		}
		mustAikeysd(t, olga, "check", "--keys", "--customer", "acme", "--project", "chat")
		var did []string
		for _, e := range trail("--from", from) {
			require.Regexp(t, `^\S+@\S+$`, e.Actor)
			if name, _, _ := strings.Cut(e.Actor, "@"); e.Type != "keks.changed" {
				did = append(did, name+": "+e.Command+": "+strings.TrimSpace(e.Type+" "+e.Project))
			}
			require.Equal(t, strings.HasPrefix(e.Type, "dataplane.") || e.Type == "member.set", e.Subject != "", e.Type)
		}
		require.ElementsMatch(t, []string{
			"bob: aikeysd rewrap: rewrap.started", "bob: aikeysd rewrap: rewrap.ended",
			"olga: aikeysd admin dataplane create: dataplane.created", "olga: aikeysd admin dataplane revoke: dataplane.revoked",
			"olga: aikeysd admin member set: member.set chat", "olga: aikeysd admin key list: project.read chat",
			"olga: aikeysd admin token list: project.read chat", "olga: aikeysd admin fetches: project.read chat",
			"olga: aikeysd admin member list: project.read chat", "olga: aikeysd check: project.read chat",
		}, did)
		ended := trail("--type", "rewrap.ended")
		require.Len(t, ended, 1)
		require.Contains(t, string(ended[0].After), `"outcome": "done"`)
		require.Contains(t, string(ended[0].After), `"rewrapped": 1`)
		require.Regexp(t, `^TIME +ACTOR +COMMAND +TYPE +PROJECT +OF +BEFORE +AFTER\n\S+ +olga@\S+ +aikeysd admin dataplane revoke +dataplane\.revoked +- +\S+ +\{"name":"edge-9","customers":\["acme"\]\} +-\n$`,
			mustAikeysd(t, i.environ, "admin", "events", "--type", "dataplane.revoked"))
		require.Len(t, trail("--limit", "3"), 3)
		require.Equal(t, exitOK, i.Stop())
	})
}

func TestStoppingWritesTheCountOfDenials(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		newOwner(t, environ)
		require.Equal(t, exitOK, runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member").Code)
		bob := strings.TrimSpace(runAdmin(t, environ, "token", "create", "--user", "bob").Stdout)
		s := startReady(t, environ)
		for range 3 {
			require.Equal(t, http.StatusForbidden, programtest.Send(http.MethodPut, s.api+"/v1/customers/-/projects/-/policy", bob, `{"user_keys":"allow"}`).Status)
		}
		require.Equal(t, exitOK, s.Stop())
		who := models.Caller{CustomerID: "acme", ProjectID: "chat", UserID: "alice"}
		denied, err := modelstest.OpenStore(t, databaseOf(environ), models.Options{}).
			ListEvents(t.Context(), who, models.EventFilter{Outcome: models.OutcomeDenied, Actor: "bob"}, "", 10)
		require.NoError(t, err)
		require.Len(t, denied, 2)
		require.Equal(t, []int64{2, 0}, []int64{denied[0].Repeated, denied[1].Repeated})
	})
}

func TestAdminFailures(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	newOwner(t, environ)
	const inChat, inNew = " --customer acme --project chat", " --customer acme --project new"
	for name, tc := range map[string]struct {
		args string
		code int
		says []string
	}{
		"the first member is no owner": {"member set --user bob --role member" + inNew, exitFailure, []string{"acme/new needs one", "--role owner"}},
		"the last owner steps down":    {"member set --user alice --role member" + inChat, exitFailure, []string{"another user an owner first"}},
		"the last owner leaves":        {"member remove --user alice" + inChat, exitFailure, []string{"another user an owner first"}},
		"a stranger leaves": {"member remove --user eve" + inChat, exitFailure,
			[]string{"eve is not a member of acme/chat", "see: aikeysd admin member list --customer acme --project chat"}},
		"a token for a stranger": {"token create --user eve" + inChat, exitFailure,
			[]string{"eve is not a member of acme/chat", "aikeysd admin member set --customer acme --project chat --user eve --role member"}},
		"a token for the first of a new project": {"token create --user eve" + inNew, exitFailure,
			[]string{"aikeysd admin member set --customer acme --project new --user eve --role owner"}},
		"the members of no project":  {"member list" + inNew, exitFailure, []string{"there is no project acme/new in sqlite:/"}},
		"the tokens of no project":   {"token list" + inNew, exitFailure, []string{"there is no project acme/new in sqlite:/"}},
		"an invalid lifetime":        {"token create --user alice --expires 1y" + inChat, exitUsage, []string{"--expires: must be hours or days above zero, such as 720h or 30d"}},
		"an empty lifetime":          {"token create --user alice --expires=" + inChat, exitUsage, []string{"--expires: must be hours or days"}},
		"a negative lifetime":        {"token create --user alice --expires -1h" + inChat, exitUsage, []string{"--expires"}},
		"a token of another project": {"token revoke --id 01JD8Q6Z3V8M2T5K7N9R4W1XYZ" + inChat, exitFailure, []string{"no API key with this id"}},
		"a token in place of its id": {"token revoke --id ak_secret" + inChat, exitUsage, []string{"--id", "never give the API key itself"}},
		"no role":                    {"member set --user bob" + inChat, exitUsage, []string{"--role: must be owner or member"}},
		"no ids, all at once": {"member set --role owner", exitUsage,
			[]string{"--customer: is required", "--project: is required", "--user: is required"}},
		"invalid ids": {"member set --customer - --project a/b --user .. --role owner", exitUsage,
			[]string{"--customer: must be", "--project: must be", "--user: must be"}},
		"an id that is too long": {"member list --project chat --customer " + strings.Repeat("x", 65), exitUsage, []string{"--customer: must be"}},
		"no name":                {"dataplane create", exitUsage, []string{"--name: is required"}},
		"everything at once": {"dataplane create --name a/b --customer .. --expires 1y", exitUsage,
			[]string{"--name: must be", "--customer: must be", "--expires: must be"}},
		"an invalid name of a certificate": {"dataplane create --name edge-1 --certificate edge-1.internal", exitUsage,
			[]string{"--certificate: must be dns:<name>, uri:<name> or cn:<name>"}},
		"keys of no project":    {"key list" + inNew, exitFailure, []string{"there is no project acme/new"}},
		"no key":                {"key revoke", exitUsage, []string{"give one id of a key"}},
		"a key that is not":     {"key revoke byok_01JD8Q6Z3V8M2T5K7N9R4W1XYZ", exitFailure, []string{"no key has this id in sqlite:/"}},
		"a key in place of ids": {"key revoke ak_secret/", exitUsage, []string{"never give the key itself"}},
		"a negative wait":       {"key revoke byok_01JD8Q6Z3V8M2T5K7N9R4W1XYZ --wait -1s", exitUsage, []string{"--wait: must be a duration"}},
		"nobody to revoke":      {"dataplane revoke --name eve", exitFailure, []string{"no data plane has the name eve; see: aikeysd admin dataplane list"}},
		"fetches of no project": {"fetches" + inNew, exitFailure, []string{"there is no project acme/new"}},
		"too many fetches":      {"fetches --limit 10001" + inChat, exitUsage, []string{"--limit: must be"}},
		"events of no type": {"events --from yesterday --to 1969-12-31 --limit 0 -o yaml --customer ..", exitUsage,
			[]string{"--from: must be a day", "--to: must be a day", "--limit: must be", "--output: must be", "--customer: must be"}},
		"a token for a name": {"dataplane revoke ak_secret", exitUsage, []string{"takes no arguments; see aikeysd admin dataplane revoke --help"}},
		"a flag of others":   {"dataplane list --customer acme", exitUsage, []string{"--customer"}},
		"no database":        {"dataplane list --database-url sqlite:/nowhere/a.db", exitFailure, []string{"there is no database at /nowhere/a.db"}},
	} {
		got := aikeysd(t, environ, append([]string{"admin"}, strings.Fields(tc.args)...)...)
		require.Equal(t, tc.code, got.Code, "%s: %s", name, got.Stderr)
		require.Empty(t, got.Stdout, name)
		for _, says := range tc.says {
			require.Contains(t, got.Stderr, says, name)
		}
		require.NotContains(t, got.Stderr, "ak_secret", name)
	}
}

func TestAdminOnPostgresNeedsSchema(t *testing.T) {
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+modelstest.EnginePostgres.URL(t))
	got := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitFailure, got.Code)
	require.Contains(t, got.Stderr, "run: aikeysd migrate up")
}

func TestDatabaseErrorHidesPassword(t *testing.T) {
	t.Parallel()
	environ := with(newEnviron(t), "AIKEYS_DATABASE_URL=postgres://aikeys:hunter2@127.0.0.1:1/keys")
	for _, args := range []string{"migrate up", "migrate status", "admin token list --customer a --project b"} {
		got := aikeysd(t, environ, strings.Fields(args)...)
		require.Equal(t, exitFailure, got.Code)
		require.Equal(t, 1, strings.Count(got.Stderr, "\n"), got.Stderr)
		require.Contains(t, got.Stderr, "check that postgres://127.0.0.1:1/keys can be reached")
		require.NotContains(t, got.Stderr, "hunter2")
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
	for _, args := range []string{
		"member list", "member remove --user alice", "member set --user alice --role member",
		"token list", "token create --user alice", "token revoke --id 01JD8Q6Z3V8M2T5K7N9R4W1XYZ",
	} {
		got := runAdmin(t, environ, strings.Fields(args)...)
		require.Equal(t, exitFailure, got.Code, args)
		require.Contains(t, got.Stderr, "there is no database at "+path, args)
		require.NoDirExists(t, "data", args)
	}
	got := runAdmin(t, environ, "member", "set", "--user", "alice", "--role", "owner")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Equal(t, "made a new database at "+path+"\nalice is owner of acme/chat in sqlite:"+path+"\n", got.Stderr)
	got = runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member")
	require.Equal(t, "bob is member of acme/chat in sqlite:"+path+"\n", got.Stderr, "noted once")
}

func TestAdminNotesNameDatabase(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		url := e.MigratedURL(t)
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+url)
		newOwner(t, environ)
		notes := []string{runAdmin(t, environ, "member", "set", "--user", "bob", "--role", "member").Stderr}
		created := runAdmin(t, environ, "token", "create", "--user", "bob")
		notes = append(notes, created.Stderr)
		notes = append(notes, runAdmin(t, environ, "token", "revoke", "--id", strings.Split(created.Stdout, "_")[1]).Stderr)
		notes = append(notes, runAdmin(t, environ, "member", "remove", "--user", "bob").Stderr)
		for _, note := range notes {
			require.Contains(t, note, "acme/chat in "+databaseName(url))
		}
	})
}

func TestAdminHintsRepeatDatabaseFlags(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "it's here", "a.db")
	got := runAdmin(t, nil, "member", "set", "--user", "alice", "--role", "owner", "--database-url", "sqlite:"+path)
	require.Equal(t, exitOK, got.Code, got.Stderr)
	got = runAdmin(t, nil, "member", "remove", "--user", "eve", "--database-url", "sqlite:"+path)
	require.Equal(t, exitFailure, got.Code)
	require.Contains(t, got.Stderr, `aikeysd admin member list --customer acme --project chat --database-url 'sqlite:`+strings.ReplaceAll(path, "'", `'\''`)+"'")
}

// In an emergency, an operator can revoke any user's key, as the key's owner can. The event names the operator.
func TestAdminRevokesAnyKeyAndAwaitsTheReceipt(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t), "SUDO_USER=olga")
		owner := newOwner(t, environ)
		plane := newDataPlane(t, environ)
		s := startReady(t, environ)
		s.follow(programtest.Client, plane)
		shared := s.register(owner, "shared")
		made := programtest.Send(http.MethodPost, s.api+"/v1/aikeys", owner, strings.Replace(registerBody("own"), "{", `{"user_scope": true, `, 1))
		require.Equal(t, http.StatusCreated, made.Status, made.Body)
		own := anyKeyID.FindString(made.Body)
		list := func() string { return runAdmin(t, environ, "key", "list").Stdout }
		require.Regexp(t, `^ID +PROVIDER +USER +STATE .*\n`+own+` +openai +alice +active .* own\n`+shared+` +openai +- +active .* shared\n$`, list())

		pending := aikeysd(t, environ, "admin", "key", "revoke", shared, "--wait", "0s")
		require.Equal(t, exitOK, pending.Code, pending.Stderr)
		require.Contains(t, pending.Stderr, "the receipt is pending: 0 of 1 data planes have confirmed")
		late := aikeysd(t, environ, "admin", "key", "revoke", own, "--wait", "1ms")
		require.Equal(t, exitFailure, late.Code)
		require.Contains(t, late.Stderr, "is revoked, but its receipt is pending after 1ms: 0 of 1 data planes have confirmed")
		complete := aikeysd(t, with(environ, "SUDO_USER=bob"), "admin", "key", "revoke", shared) // its lease runs out
		require.Equal(t, exitOK, complete.Code, complete.Stderr)
		require.Regexp(t, `\(openai, "shared"\) of acme/chat in .* is revoked since \S+, by olga@\S+\nthe receipt is complete: 0 of 1 data planes have confirmed\n$`,
			complete.Stderr, "the first revocation stands")

		require.Equal(t, http.StatusForbidden, s.fetch(plane, shared).Status)
		require.Contains(t, s.get(s.api+"/v1/aikeys/"+own, owner).Body, `"state":"revoked"`)
		require.Regexp(t, own+` .* revoked .* olga@\S+ .*\n`+shared+` .* revoked .* olga@\S+ `, list())
		trail := s.get(s.api+"/v1/customers/-/projects/-/events?page_size=2", owner).Body
		for _, id := range []string{own, shared} {
			require.Regexp(t, `"key\.revoked"`, trail)
			require.Regexp(t, `"outcome":"allowed"[^{]*"actor":\{"method":"admin","user_id":"olga@[^}]*\}[^}]*"key_id":"`+id+`"[^}]*"provider":"openai"`, trail)
		}
		require.Equal(t, exitOK, s.Stop())
	})
}

// A project that had keys for a custom provider learns from its events which operator deleted the provider.
func TestAdminDeletesAProvider(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t), "SUDO_USER=olga")
		owner := newOwner(t, environ)
		mustAikeysd(t, environ, "admin", "provider", "create", "--customer", "acme", "--slug", "x-vllm", "--base-url", "https://llm.example/v1")
		s := startReady(t, environ)
		made := programtest.Send(http.MethodPost, s.api+"/v1/aikeys", owner, `{"provider": "x-vllm", "name": "own", "secret": "EXAMPLE-0001"}`)
		require.Equal(t, http.StatusCreated, made.Status, made.Body)
		remove := []string{"admin", "provider", "delete", "--customer", "acme", "--slug", "x-vllm"}
		require.Contains(t, aikeysd(t, environ, remove...).Stderr, "has keys that are not revoked")
		mustAikeysd(t, environ, "admin", "key", "revoke", anyKeyID.FindString(made.Body), "--wait", "0s")
		mustAikeysd(t, environ, remove...)
		require.Regexp(t, `"type":"provider\.deleted"[^{]*"actor":\{"method":"admin","user_id":"olga@[^}]*\}[^}]*"provider":"x-vllm"`,
			s.get(s.api+"/v1/customers/-/projects/-/events?page_size=1", owner).Body)
		require.Equal(t, 1, strings.Count(mustAikeysd(t, environ, "admin", "events", "-o", "json", "--type", "provider.deleted"), `"provider.deleted"`), "once in the system trail")
		require.Equal(t, exitOK, s.Stop())
	})
}

// Rows of credentials are never deleted. Each row says who created the credential, who revoked it, and whether it is in
// use.
func TestAdminDataPlanes(t *testing.T) {
	t.Parallel()
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		environ := with(newEnviron(t), "AIKEYS_DATABASE_URL="+e.MigratedURL(t))
		owner := newOwner(t, environ)
		list := func() string { return mustAikeysd(t, environ, "admin", "dataplane", "list") }
		got := aikeysd(t, with(environ, "SUDO_USER=alice"), "admin", "dataplane", "create", "--name", "edge-1", "--customer", "acme", "--expires", "720h")
		require.Equal(t, exitOK, got.Code, got.Stderr)
		require.Regexp(t, `^dp_[0-9A-Z]{26}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}\n$`, got.Stdout)
		credential := strings.TrimSuffix(got.Stdout, "\n")
		id := strings.Split(credential, "_")[1]
		require.Contains(t, got.Stderr, id)
		require.NotContains(t, got.Stderr, strings.Split(credential, "_")[2], "notes may be logged")
		require.NotContains(t, got.Stderr, "WARNING")
		expires := time.Now().Add(720 * time.Hour).UTC().Format("2006-01-02")
		require.Regexp(t, `^ID +NAME +CREDENTIAL +CUSTOMERS +CREATED +EXPIRES +STATE +STREAMS +CREATED BY +REVOKED +REVOKED BY\n`+
			id+` +edge-1 +token +acme +\S+ +`+expires+`\S+ +active +0 +alice@\S+ +never +-\n$`, list())
		mustAikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-2")

		s := startReady(t, environ)
		s.follow(programtest.Client, credential)
		require.Regexp(t, ` edge-1 .* active +1 +alice@\S+ +never +-\n`, list())
		require.Regexp(t, ` edge-2 .* active +0 +\S+@\S+ +never +-\n`, list())
		require.NotRegexp(t, ` edge-2 .* alice`, list())
		key := s.register(owner, "a")
		fetched := s.fetch(credential, key)
		require.Equal(t, http.StatusOK, fetched.Status, fetched.Body)
		require.Contains(t, fetched.Body, fakeSecret)
		require.Equal(t, http.StatusUnauthorized, s.get(s.api+"/v1/aikeys", credential).Status, "it opens no session of the public API")
		for _, who := range []string{"bob\x1b[2J", "eve"} { // to revoke again changes nothing
			revoked := aikeysd(t, with(environ, "SUDO_USER="+who), "admin", "dataplane", "revoke", "--name", "edge-1")
			require.Equal(t, exitOK, revoked.Code, revoked.Stderr)
			require.Contains(t, revoked.Stderr, id)
		}
		s.Await("it is refused", func() bool { return s.fetch(credential, key).Status == http.StatusUnauthorized })
		s.Await("its stream is not counted any more", func() bool {
			return regexp.MustCompile(` edge-1 .* revoked +0 +alice@`).MatchString(list())
		})
		require.Regexp(t, ` edge-1 .* alice@\S+ +`+time.Now().UTC().Format("2006-01-")+`\S+ +bob\?\[2J@\S+\n`, list())
		require.Equal(t, exitOK, s.Stop())

		require.Regexp(t, `^TIME +DATA PLANE +USER +PROVIDER +KEY +DECISION +REASON\n(.*\n)*\S+T\S+\.\d{3}Z +edge-1 +\S+ +openai +byok_\w{26} +allowed +\w+\n`,
			mustAikeysd(t, environ, "admin", "fetches", "--customer", "acme", "--project", "chat", "--limit", "5"))
	})
}

func TestAdminDataPlaneCustomers(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	newOwner(t, environ)
	got := aikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-1")
	require.Equal(t, exitOK, got.Code, got.Stderr)
	require.Contains(t, got.Stderr, "WARNING: no --customer was given")
	require.Contains(t, got.Stderr, "ALL customers")
	require.Regexp(t, ` edge-1 +token +\(all\) +\S+ +never +active +0 +\S+@\S+ +never +-\n`, mustAikeysd(t, environ, "admin", "dataplane", "list"))

	got = aikeysd(t, environ, "admin", "dataplane", "create", "--name", "edge-2", "--customer", "acme", "--customer", "globex,acmee")
	require.Contains(t, got.Stderr, "no project of customer acmee yet")
	require.NotContains(t, got.Stderr, "no project of customer acme yet")
	require.Regexp(t, ` edge-2 +token +acme,globex,acmee `, mustAikeysd(t, environ, "admin", "dataplane", "list"))
}

func TestAdminDataPlaneRevokeFreesNameAndCertificate(t *testing.T) {
	t.Parallel()
	environ := newEnviron(t)
	newOwner(t, environ)
	create := func(name, certificate string) programtest.Outcome {
		return aikeysd(t, environ, "admin", "dataplane", "create", "--name", name, "--customer", "acme", "--certificate", certificate)
	}
	require.Equal(t, exitOK, create("edge-1", "uri:spiffe://acme/edge").Code)
	for _, tc := range []struct{ name, certificate, says string }{
		{"edge-2", "uri:spiffe://acme/edge", "uri:spiffe://acme/edge are those of the active data plane edge-1"},
		{"edge-1", "dns:other.internal", "an active data plane has the name edge-1"},
		{"edge-1", "", "an active data plane has the name edge-1"},
	} {
		got := create(tc.name, tc.certificate)
		require.Equal(t, exitFailure, got.Code)
		require.Empty(t, got.Stdout)
		require.Contains(t, got.Stderr, tc.says)
		require.Contains(t, got.Stderr, "run: aikeysd admin dataplane revoke --name edge-1")
	}
	mustAikeysd(t, environ, "admin", "dataplane", "revoke", "--name", "edge-1")
	require.Equal(t, exitOK, create("edge-2", "uri:spiffe://acme/edge").Code)
	require.Equal(t, exitOK, create("edge-1", "").Code)
	list := mustAikeysd(t, environ, "admin", "dataplane", "list")
	require.Regexp(t, ` edge-2 +uri:spiffe://acme/edge +acme .* active `, list)
	require.Equal(t, 2, strings.Count(list, " edge-1 "))
}

func TestMigrateGrantsPrintsWhatOneUserGets(t *testing.T) {
	environ := newEnviron(t)
	printed := mustAikeysd(t, environ, "migrate", "grants", "--user", `app"; DROP TABLE events; --`)
	require.Contains(t, printed, `GRANT USAGE ON SCHEMA "public" TO "app""; DROP TABLE events; --";`)
	require.Contains(t, printed, `REVOKE UPDATE, DELETE ON "public".events, "public".system_events, "public".fetches FROM`)
	require.Contains(t, mustAikeysd(t, environ, "migrate", "grants", "--user", "app", "--schema", "keys"), `ON "keys".goose_db_version FROM "app";`)
	refused := aikeysd(t, environ, "migrate", "grants")
	require.Equal(t, 2, refused.Code)
	require.Contains(t, refused.Stderr, "--user: is required")
}
