package aikeys_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

// rotateBody returns a body with a secret, and further members.
func rotateBody(secret, more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"secret":` + strconv.Quote(secret) + more + `}`
}

// rotated rotates a key as the owner, and requires success.
func rotated(t *testing.T, s *aikeystest.Service, id, secret, more string) gen.RotateResponse {
	reply := post(t, s, owner, project+"/aikeys/"+id+"/rotate", rotateBody(secret, more))
	got := decode[gen.RotateResponse](t, reply)
	require.Equal(t, *got.Key.Etag, reply.Header.Get("ETag"))
	return got
}

// states returns the states of a key's versions, the first version first.
func states(t *testing.T, s *aikeystest.Service, user, id string) (states []string) {
	for _, v := range slices.Backward(decode[gen.VersionsResponse](t, get(t, s, user, project+"/aikeys/"+id+"/versions")).Versions) {
		states = append(states, v.State)
	}
	return states
}

func TestARotationKeepsTheKeyAndChangesTheSecret(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		require.Equal(t, 1, *key.Version)
		secret := "sk-" + s.Secret()
		before := time.Now().Truncate(time.Microsecond)
		got := rotated(t, s, key.ID, secret, `"activate":"now"`)
		want := key
		want.Etag, want.Version, want.DisplaySuffix = new(`"2"`), new(2), secret[len(secret)-4:]
		require.Equal(t, want, got.Key)
		require.Equal(t, []any{2, "active", want.DisplaySuffix, owner}, []any{got.Version.Version, got.Version.State, got.Version.DisplaySuffix, got.Version.CreatedBy})
		require.WithinRange(t, *got.Version.ActivatedAt, before, time.Now())
		require.Equal(t, &gen.RotationReceipt{State: "complete", Version: 2, ReplacedVersion: 1, RotatedAt: *got.Version.ActivatedAt,
			RotatedBy: new(owner), OldVersionSafeToDelete: true}, got.Receipt)
		listed := decode[gen.VersionsResponse](t, get(t, s, member, project+"/aikeys/"+key.ID+"/versions"))
		require.Equal(t, got.Receipt, listed.Receipt)
		require.Equal(t, got.Version, listed.Versions[0])
		require.Equal(t, []any{1, "retiring", key.DisplaySuffix, key.CreatedAt}, []any{listed.Versions[1].Version, listed.Versions[1].State, listed.Versions[1].DisplaySuffix, listed.Versions[1].CreatedAt})
		require.Equal(t, got.Version.ActivatedAt.Add(15*time.Minute), *listed.Versions[1].RetiresAt)

		reply := post(t, s, owner, project+"/aikeys/"+key.ID+"/rollback", nil)
		require.Equal(t, http.StatusOK, reply.Status)
		back := decode[gen.RotateResponse](t, reply)
		require.Equal(t, []any{1, 1, 2, key.DisplaySuffix, true}, []any{*back.Key.Version, back.Receipt.Version, back.Receipt.ReplacedVersion, back.Key.DisplaySuffix, back.Receipt.OldVersionSafeToDelete})
		require.Equal(t, []string{"active", "retiring"}, states(t, s, owner, key.ID))
		reply = del(t, s, owner, project+"/aikeys/"+key.ID+"/versions/2")
		require.Equal(t, http.StatusOK, reply.Status)
		require.Equal(t, "destroyed", decode[gen.DestroyVersionResponse](t, reply).Version.State)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/aikeys/"+key.ID+"/versions/2").Status, "again")
		require.Equal(t, []line{
			{"key.registered", "allowed", owner, key.ID, "openai", "", ""}, {"key.rotated", "allowed", owner, key.ID, "openai", "", ""},
			{"key.rotation_rolled_back", "allowed", owner, key.ID, "openai", "", ""}, {"key.version_destroyed", "allowed", owner, key.ID, "openai", "", ""},
		}, lines(events(t, s, member)))
		rotation := events(t, s, owner)[2]
		require.Equal(t, []int{1, 2}, []int{*rotation.Before.Version, *rotation.After.Version})
		require.Empty(t, fetched(t, s), "fingerprints are compared, and nothing is opened")
	})
}

func TestAPendingVersionServesOnceActivated(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		end := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Microsecond)
		got := rotated(t, s, key.ID, "sk-"+s.Secret(), `"activate":"manual","overlap":"1h","expires_at":"`+end.Format(time.RFC3339Nano)+`"`)
		require.Equal(t, []any{"pending", &end, 1}, []any{got.Version.State, got.Version.ExpiresAt, *got.Key.Version})
		require.Nil(t, got.Receipt)
		require.Nil(t, got.Key.ExpiresAt)
		for range 2 { // the second request may be a retry of the first
			reply := ask(t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/versions/2/activate?wait=1s", nil, "If-Match", `"2"`)
			require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
			got = decode[gen.RotateResponse](t, reply)
			require.Equal(t, []any{2, &end, true}, []any{*got.Key.Version, got.Key.ExpiresAt, got.Receipt.OldVersionSafeToDelete})
		}
		require.Equal(t, []string{"retiring", "active"}, states(t, s, owner, key.ID))
		got = rotated(t, s, key.ID, "sk-"+s.Secret(), `"activate":"now","overlap":"0s","expires_at":null`)
		require.Nil(t, got.Key.ExpiresAt)
		require.Equal(t, []string{"destroyed", "destroyed", "active"}, states(t, s, owner, key.ID))
	})
}

func TestASecretServesIfItsTestFindsItValid(t *testing.T) {
	tested := func(t *testing.T, o *aikeystest.Options) {
		testedAt(func(w http.ResponseWriter, r *http.Request) { // the secret's end is the status
			given := r.Header.Get("Authorization")
			status, _ := strconv.Atoi(given[len(given)-3:])
			w.WriteHeader(status)
		})(t, o)
		o.Verifier = o.Tester
	}
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := post(t, s, owner, project+"/aikeys/"+key.ID+"/rotate", rotateBody("sk-"+s.Secret()+"401", ""))
		require.Equal(t, []any{http.StatusUnprocessableEntity, "/problems/secret-rejected"}, []any{reply.Status, reply.Problem(t).Type})
		require.Equal(t, []string{"active"}, states(t, s, owner, key.ID), "nothing was stored")
		got := rotated(t, s, key.ID, "sk-"+s.Secret()+"502", "")
		require.Equal(t, []any{"pending", "unreachable", 1}, []any{got.Version.State, got.Version.Verification.Verdict, *got.Key.Version})
		got = rotated(t, s, key.ID, "sk-"+s.Secret()+"200", `"activate":"verified"`)
		require.Equal(t, []any{"active", "valid", "valid", 3}, []any{got.Version.State, got.Version.Verification.Verdict, got.Key.Verification.Verdict, *got.Key.Version})
		require.Equal(t, []string{"retiring", "destroyed", "active"}, states(t, s, owner, key.ID))
	}, tested)
}

func TestARotationIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		body := s.Shared("n")
		key, revoked := s.As(owner).Register(t, body), s.As(owner).Register(t, s.Shared("revoked"))
		s.As(owner).RevokeKey(t, revoked.ID)
		own := s.As(member).Register(t, s.Own("own"))
		good := rotateBody("sk-"+s.Secret(), `"activate":"now"`)
		for name, c := range map[string]struct {
			user, method, id, path, body string
			headers                      []string
			status                       int
			kind                         string
		}{
			"same secret":         {owner, http.MethodPost, key.ID, "/rotate", rotateBody(body.Secret.Reveal(), `"activate":"now"`), nil, 409, "same-secret"},
			"masked":              {owner, http.MethodPost, key.ID, "/rotate", rotateBody("sk-...abcd", ""), nil, 400, "invalid-argument"},
			"empty":               {owner, http.MethodPost, key.ID, "/rotate", rotateBody("", ""), nil, 400, "invalid-argument"},
			"another provider's":  {owner, http.MethodPost, key.ID, "/rotate", rotateBody("sk-ant-api03-"+strings.Repeat("x7", 40), ""), nil, 400, "invalid-argument"},
			"overlap":             {owner, http.MethodPost, key.ID, "/rotate", rotateBody("sk-"+s.Secret(), `"overlap":"721h"`), nil, 400, "invalid-argument"},
			"past":                {owner, http.MethodPost, key.ID, "/rotate", rotateBody("sk-"+s.Secret(), `"expires_at":"2020-01-01T00:00:00Z"`), nil, 400, "invalid-argument"},
			"stale etag":          {owner, http.MethodPost, key.ID, "/rotate", good, []string{"If-Match", `"7"`}, 412, "precondition-failed"},
			"stale, activate":     {owner, http.MethodPost, key.ID, "/versions/2/activate", "", []string{"If-Match", `"7"`}, 412, "precondition-failed"},
			"stale, roll back":    {owner, http.MethodPost, key.ID, "/rollback", "", []string{"If-Match", `"7"`}, 412, "precondition-failed"},
			"stale, destroy":      {owner, http.MethodDelete, key.ID, "/versions/2", "", []string{"If-Match", `"7"`}, 412, "precondition-failed"},
			"revoked":             {owner, http.MethodPost, revoked.ID, "/rotate", good, nil, 409, "key-revoked"},
			"revoked, activate":   {owner, http.MethodPost, revoked.ID, "/versions/1/activate", "", nil, 409, "key-revoked"},
			"revoked, roll back":  {owner, http.MethodPost, revoked.ID, "/rollback", "", nil, 409, "key-revoked"},
			"member":              {member, http.MethodPost, key.ID, "/rotate", good, nil, 403, "permission-denied"},
			"member, activate":    {member, http.MethodPost, key.ID, "/versions/1/activate", "", nil, 403, "permission-denied"},
			"another's own":       {owner, http.MethodPost, own.ID, "/rotate", good, nil, 404, "not-found"},
			"another's, versions": {owner, http.MethodGet, own.ID, "/versions", "", nil, 404, "not-found"},
			"no rollback":         {owner, http.MethodPost, key.ID, "/rollback", "", nil, 409, "no-rollback"},
			"no version":          {owner, http.MethodPost, key.ID, "/versions/2/activate", "", nil, 404, "not-found"},
			"active":              {owner, http.MethodDelete, key.ID, "/versions/1", "", nil, 409, "version-active"},
			"version 0":           {owner, http.MethodDelete, key.ID, "/versions/0", "", nil, 400, "invalid-argument"},
		} {
			reply := ask(t, s, c.user, c.method, project+"/aikeys/"+c.id+c.path, c.body, c.headers...)
			require.Equal(t, []any{c.status, "/problems/" + c.kind}, []any{reply.Status, reply.Problem(t).Type}, "%s: %s", name, reply.Body)
		}
		require.Equal(t, []string{"active"}, states(t, s, owner, key.ID))
		require.Equal(t, line{"key.rotated", "denied", member, key.ID, "openai", "", ""}, lines(events(t, s, owner))[4])
		require.Equal(t, http.StatusOK, post(t, s, member, project+"/aikeys/"+own.ID+"/rotate", rotateBody("sk-"+s.Secret(), `"activate":"now"`)).Status, "their own")
	})
}

func TestARepeatedRotationMakesOneVersion(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		body := rotateBody("sk-"+s.Secret(), `"activate":"now"`)
		got := together(8, func(int) aikeystest.Reply {
			return ask(t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/rotate", body, "Idempotency-Key", "one", "If-Match", `"1"`)
		})
		for _, reply := range got {
			require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
			require.Equal(t, 2, decode[gen.RotateResponse](t, reply).Version.Version)
		}
		require.Equal(t, []string{"retiring", "active"}, states(t, s, owner, key.ID))
		reply := ask(t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/rotate", rotateBody("sk-"+s.Secret(), `"activate":"now"`), "Idempotency-Key", "one")
		require.Equal(t, []any{http.StatusUnprocessableEntity, "/problems/idempotency-key-reused"}, []any{reply.Status, reply.Problem(t).Type})
		changed(t, s, key.ID, `{"disabled":true}`)
		for _, change := range []func(){func() {}, func() { s.As(owner).RevokeKey(t, key.ID) }} {
			change()
			reply = ask(t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/rotate", body, "Idempotency-Key", "one")
			require.Equal(t, read(t, s, owner, key.ID), decode[gen.RotateResponse](t, reply).Key)
		}
	})
}

func TestOfManyWhoReadTheSameOneRotates(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		statuses := func(headers ...string) map[int]int {
			counts := map[int]int{}
			for _, status := range together(4, func(int) int {
				return ask(t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/rotate", rotateBody("sk-"+s.Secret(), `"activate":"now"`), headers...).Status
			}) {
				counts[status]++
			}
			return counts
		}
		require.Equal(t, map[int]int{http.StatusOK: 1, http.StatusPreconditionFailed: 3}, statuses("If-Match", `"1"`))
		require.Equal(t, map[int]int{http.StatusOK: 4}, statuses(), "without an etag each is sealed for a number of its own")
		require.Equal(t, []string{"destroyed", "destroyed", "destroyed", "destroyed", "retiring", "active"}, states(t, s, owner, key.ID))
	})
}

func TestARevokeEndsARotationsVersions(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for range 3 {
			key := s.As(owner).Register(t, s.Shared("n"))
			got := together(5, func(i int) int {
				if i == 2 {
					s.As(owner).RevokeKey(t, key.ID)
					return http.StatusOK
				}
				return post(t, s, owner, project+"/aikeys/"+key.ID+"/rotate", rotateBody("sk-"+s.Secret(), `"activate":"now"`)).Status
			})
			for _, status := range got {
				require.Contains(t, []int{http.StatusOK, http.StatusConflict}, status)
			}
			for _, state := range states(t, s, owner, key.ID) {
				require.Contains(t, []string{"active", "destroyed"}, state)
			}
			require.Equal(t, "revoked", read(t, s, owner, key.ID).State)
		}
	})
}
