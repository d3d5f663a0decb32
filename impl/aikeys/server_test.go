package aikeys_test

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/internal/ratelimit"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

func TestMain(m *testing.M) { modelstest.Main(m) }

// Short names that most tests use.
const (
	owner  = aikeystest.Owner
	member = aikeystest.Member
	other  = aikeystest.OtherMember
	sam    = aikeystest.Stranger
	self   = aikeystest.Self
)

// project is the path of the project that the sessions of Service.As have.
const project = "/v1/customers/" + aikeystest.Customer + "/projects/" + aikeystest.Project

// each runs a test on every engine in parallel, with a service for each.
func each(t *testing.T, test func(t *testing.T, s *aikeystest.Service), changes ...func(t *testing.T, o *aikeystest.Options)) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		t.Parallel()
		opts := aikeystest.Options{Store: modelstest.NewStore(t, e)}
		for _, change := range changes {
			change(t, &opts)
		}
		test(t, aikeystest.Start(t, opts))
	})
}

// ask sends a request in a user's session, with headers in pairs of name and value; get, del, put and post do so by their methods.
func ask(t *testing.T, s *aikeystest.Service, user, method, path string, body any, headers ...string) aikeystest.Reply {
	r := aikeystest.Request{Method: method, Path: path, Token: s.As(user).Token, Header: http.Header{}}
	if body != nil && body != "" {
		r.Body = encode(t, body)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return s.Send(t, r)
}

func get(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	return ask(t, s, user, http.MethodGet, path, nil)
}

func del(t *testing.T, s *aikeystest.Service, user, path string) aikeystest.Reply {
	return ask(t, s, user, http.MethodDelete, path, nil)
}

func put(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	return ask(t, s, user, http.MethodPut, path, body)
}

func post(t *testing.T, s *aikeystest.Service, user, path string, body any) aikeystest.Reply {
	return ask(t, s, user, http.MethodPost, path, body)
}

// encode returns the JSON of a body; bytes and strings are sent unchanged.
func encode(t *testing.T, body any) []byte {
	switch raw := body.(type) {
	case []byte:
		return raw
	case string:
		return []byte(raw)
	}
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return text
}

// decode returns the body of a reply to a request that must have succeeded.
func decode[T any](t *testing.T, r aikeystest.Reply) (value T) {
	require.Less(t, r.Status, http.StatusMultipleChoices, "%s", r.Body)
	require.NoError(t, json.Unmarshal(r.Body, &value), "%s", r.Body)
	return value
}

// list returns all keys that a user sees in their project.
func list(t *testing.T, s *aikeystest.Service, user string) []gen.Key {
	return decode[gen.ListResponse](t, get(t, s, user, project+"/aikeys")).Keys
}

// events returns the newest events that a user sees in their project.
func events(t *testing.T, s *aikeystest.Service, user string) []gen.Event {
	return decode[gen.ListEventsResponse](t, get(t, s, user, project+"/events?page_size=500")).Events
}

// read returns a key as a user sees it.
func read(t *testing.T, s *aikeystest.Service, user, id string) gen.Key {
	return decode[gen.GetResponse](t, get(t, s, user, project+"/aikeys/"+id)).Key
}

func ids(keys []gen.Key) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.ID)
	}
	return out
}

// together calls fn n times at once, with 0 to n-1, and returns the results.
func together[T any](n int, fn func(i int) T) []T {
	out := make([]T, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			out[i] = fn(i)
		})
	}
	close(start)
	wg.Wait()
	return out
}

// pages reads a list page by page and returns the pages' ids. Size 0 leaves the size to the service.
func pages(t *testing.T, s *aikeystest.Service, user, path string, size int) (all [][]string) {
	query := ""
	if size > 0 {
		query = fmt.Sprintf("page_size=%d&", size)
	}
	for token := ""; len(all) < 100; {
		type item struct {
			ID     string
			UserID string `json:"user_id"`
		}
		page := decode[struct {
			Keys, Events, Members []item
			Next                  *string `json:"next_page_token"`
		}](t, get(t, s, user, strings.TrimRight(path+query+token, "?&")))
		of := []string{}
		for _, i := range slices.Concat(page.Keys, page.Events, page.Members) {
			of = append(of, cmp.Or(i.ID, i.UserID))
		}
		all = append(all, of)
		if page.Next == nil {
			return all
		}
		token = "page_token=" + *page.Next
	}
	require.Fail(t, "the list does not end")
	return nil
}

// requirePaged asserts that a list read in pages of any size is the same list.
func requirePaged(t *testing.T, s *aikeystest.Service, user, path string, want []string, most int) {
	for _, size := range []int{1, 2, 3, len(want) - 1, len(want), len(want) + 1, most} {
		t.Run("in pages of "+strconv.Itoa(size), func(t *testing.T) {
			got := pages(t, s, user, path, size)
			require.Equal(t, want, slices.Concat(got...))
			require.Len(t, got, (len(want)+size-1)/size, "no page is empty")
		})
	}
}

// retry sends a register with an Idempotency-Key.
func retry(t *testing.T, s *aikeystest.Service, token, key string, body gen.RegisterRequest) aikeystest.Reply {
	return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, body),
		Header: http.Header{"Idempotency-Key": {key}}})
}

// exampleKey is the key id of the document's examples.
const exampleKey = "byok_01JD8Q6Z3V8M2T5K7N9R4W1XYZ"

// newLockable starts a service on Postgres. lock locks tables until the test ends or calls release. awaitWaiting waits
// until a connection waits for a lock on the table. The database waits for a lock for half of the options' Timeout.
func newLockable(t *testing.T, opts models.Options) (s *aikeystest.Service, lock func(tables string) (release func()), awaitWaiting func(table string)) {
	url := modelstest.EnginePostgres.URL(t)
	store := modelstest.OpenStore(t, url, opts)
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	db := modelstest.Open(t, url)
	lock = func(tables string) (release func()) {
		tx, err := db.BeginTx(context.WithoutCancel(t.Context()), nil)
		require.NoError(t, err)
		release = sync.OnceFunc(func() { require.NoError(t, tx.Rollback()) })
		t.Cleanup(release)
		_, err = tx.ExecContext(t.Context(), "LOCK TABLE "+tables+" IN ACCESS EXCLUSIVE MODE")
		require.NoError(t, err)
		return release
	}
	return aikeystest.Start(t, aikeystest.Options{Store: store}), lock, func(table string) {
		require.Eventually(t, func() (waits bool) {
			err := db.QueryRowContext(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = $1::regclass)", table).Scan(&waits)
			return err == nil && waits
		}, 5*time.Second, 5*time.Millisecond)
	}
}

// denied returns how many denied attempts are in the audit trail.
func denied(t *testing.T, s *aikeystest.Service) (n int) {
	for _, event := range events(t, s, owner) {
		if event.Outcome == string(models.OutcomeDenied) {
			n++
		}
	}
	return n
}

// request builds a request that the test itself sends.
func request(ctx context.Context, t *testing.T, s *aikeystest.Service, user, method, path string, body any) *http.Request {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(encode(t, body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.As(user).Token)
	return req
}

func requireUnavailable(t *testing.T, reply aikeystest.Reply) {
	require.Equal(t, http.StatusServiceUnavailable, reply.Status)
	require.Equal(t, "unavailable", reply.Problem(t).Code)
	require.NotEmpty(t, reply.Header.Get("Retry-After"))
}

// end has the fields of the log line about the end of a request.
type end struct {
	Level, Operation string
	Status           int
}

// ends returns the log lines of an operation's requests.
func ends(s *aikeystest.Service, operation string) (found []end) {
	for text := range strings.Lines(s.Evidence.Log()) {
		var line end
		if json.Unmarshal([]byte(text), &line) == nil && line.Operation == operation {
			found = append(found, line)
		}
	}
	return found
}

func requireExhausted(t *testing.T, reply aikeystest.Reply) time.Duration {
	require.Equal(t, http.StatusTooManyRequests, reply.Status)
	require.Equal(t, "resource_exhausted", reply.Problem(t).Code)
	wait, err := time.ParseDuration(reply.Header.Get("Retry-After") + "s")
	require.NoError(t, err)
	return wait
}

func resolve(t *testing.T, s *aikeystest.Service, user, provider string) gen.ResolveResponse {
	return decode[gen.ResolveResponse](t, get(t, s, user, project+"/resolve?provider="+provider))
}

func setPolicy(t *testing.T, s *aikeystest.Service, body map[string]any) gen.Policy {
	return decode[gen.PolicyResponse](t, put(t, s, owner, project+"/policy", body)).Policy
}

func TestAccessOfAnotherCustomersUser(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("ours"))
		foreign := s.Session(aikeystest.OtherCustomer, aikeystest.Project, owner)
		for _, o := range aikeystest.Operations(t) {
			if !strings.Contains(o.Path, "/projects/") {
				continue
			}
			t.Run(o.OperationID, func(t *testing.T) {
				o.Token = foreign.Token
				o.Path = strings.ReplaceAll(strings.Replace(o.Path, "/v1/customers/-/projects/-", project, 1), exampleKey, key.ID)
				reply := s.Send(t, o.Request)
				require.Equal(t, http.StatusForbidden, reply.Status)
				require.NotContains(t, string(reply.Body), "ours")
			})
		}
		t.Run("its own project of the same name is another", func(t *testing.T) {
			mine := foreign.Register(t, s.Shared("theirs"))
			require.Equal(t, aikeystest.OtherCustomer, mine.CustomerID)
			reply, err := foreign.ListKeysWithResponse(t.Context(), self, self, nil)
			require.NoError(t, err)
			require.Equal(t, []string{mine.ID}, ids(reply.JSON200.Keys))
			require.Equal(t, []string{key.ID}, ids(list(t, s, owner)))
			got, err := foreign.GetKeyWithResponse(t.Context(), self, self, key.ID, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusNotFound, got.StatusCode())
		})
	})
}

func TestAccessHidesProjects(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("hidden"))
		places := map[string]string{
			"a project that is not there":   "/v1/customers/acme/projects/nowhere",
			"a customer that is not there":  "/v1/customers/nobody/projects/nowhere",
			"another customer's project":    "/v1/customers/globex/projects/web",
			"a project of another's, by id": "/v1/customers/globex/projects/ops",
		}
		for _, o := range aikeystest.Operations(t) {
			if !strings.Contains(o.Path, "/projects/") {
				continue
			}
			ask := func(place string) string {
				o.Token = s.As(sam).Token
				r := o.Request
				r.Path = strings.ReplaceAll(strings.Replace(r.Path, "/v1/customers/-/projects/-", place, 1), exampleKey, key.ID)
				reply := s.Send(t, r)
				require.Equal(t, http.StatusForbidden, reply.Status)
				id := reply.Header.Get("X-Request-Id")
				reply.Header.Del("X-Request-Id")
				reply.Header.Del("Date")
				var head strings.Builder
				require.NoError(t, reply.Header.Write(&head))
				return head.String() + strings.ReplaceAll(string(reply.Body), id, "ID")
			}
			existing := ask(project)
			for name, place := range places {
				t.Run(o.OperationID+" of "+name, func(t *testing.T) { require.Equal(t, existing, ask(place)) })
			}
		}
		require.Equal(t, []string{key.ID}, ids(list(t, s, owner)))
	})
}

func TestProjectSpellings(t *testing.T) {
	spellings := map[string]string{
		"named":                project,
		"dashes":               "/v1/customers/-/projects/-",
		"customer named":       "/v1/customers/acme/projects/-",
		"project named":        "/v1/customers/-/projects/web",
		"empty segments":       "/v1/customers//projects/",
		"empty customer":       "/v1/customers//projects/web",
		"empty project":        "/v1/customers/acme/projects/",
		"dash and empty":       "/v1/customers/-/projects/",
		"short (of keys only)": "/v1",
	}
	s := aikeystest.Start(t, aikeystest.Options{})
	first := s.As(owner).Register(t, s.Shared("first"))
	for name, base := range spellings {
		t.Run(name, func(t *testing.T) {
			var mine gen.Key
			t.Run("register", func(t *testing.T) {
				reply := post(t, s, owner, base+"/aikeys", s.Shared(name))
				require.Equal(t, http.StatusCreated, reply.Status)
				mine = decode[gen.RegisterResponse](t, reply).Key
				require.Equal(t, aikeystest.Customer, mine.CustomerID)
				require.Equal(t, aikeystest.Project, mine.ProjectID)
				require.Equal(t, project+"/aikeys/"+mine.ID, reply.Header.Get("Location"))
			})
			t.Run("list", func(t *testing.T) {
				reply := get(t, s, owner, base+"/aikeys?state=active")
				require.Equal(t, []string{mine.ID, first.ID}, ids(decode[gen.ListResponse](t, reply).Keys))
			})
			t.Run("get", func(t *testing.T) {
				reply := get(t, s, owner, base+"/aikeys/"+mine.ID)
				require.Equal(t, mine, decode[gen.GetResponse](t, reply).Key)
				bare := get(t, s, owner, base+"/aikeys/"+strings.TrimPrefix(mine.ID, "byok_"))
				require.Equal(t, mine, decode[gen.GetResponse](t, bare).Key)
			})
			t.Run("revoke", func(t *testing.T) {
				require.Equal(t, http.StatusOK, del(t, s, owner, base+"/aikeys/"+mine.ID).Status)
			})
		})
	}
	t.Run("empty segments work for the other methods too", func(t *testing.T) {
		for _, path := range []string{"/policy", "/events", "/members", "/resolve?provider=openai"} {
			require.Equal(t, http.StatusOK, get(t, s, owner, "/v1/customers//projects/"+path).Status)
		}
	})
	t.Run("the session's defaults, not the fixture's", func(t *testing.T) {
		sams := s.Session(aikeystest.Customer, aikeystest.OtherProject, sam)
		key := sams.Register(t, s.Shared("in ops"))
		require.Equal(t, aikeystest.OtherProject, key.ProjectID)
	})
}

// Every operation of the document requires a credential, including operations that are added later.
func TestBadCredentials(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	good := s.As(owner).Token
	parts := strings.Split(good, "_")
	unknown, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	expired := s.NewSession(aikeystest.Customer, aikeystest.Project, owner, time.Now().Add(-time.Second))
	revoked := s.NewSession(aikeystest.Customer, aikeystest.Project, owner, time.Time{})
	revoked.Revoke(t, aikeystest.Customer, aikeystest.Project)
	// A key with the id of another user's key, the caller's own secret, and the right checksum.
	foreign, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	mixed := "ak_" + parts[1] + "_" + strings.Split(foreign, "_")[2]
	digits := big.NewInt(int64(crc32.ChecksumIEEE([]byte(mixed)))).Text(62)
	mixed += "_" + strings.Repeat("0", 6-len(digits)) + digits
	for _, token := range []string{unknown, foreign, mixed} {
		s.Evidence.Hide(token)
	}
	credentials := map[string][]string{ // none of them opens a session
		"none":                     nil,
		"empty":                    {""},
		"the scheme alone":         {"Bearer"},
		"no token":                 {"Bearer "},
		"another scheme":           {"Basic b2xnYTpodW50ZXIy"},
		"no scheme":                {good},
		"garbage":                  {"Bearer " + s.Secret()},
		"a mistyped key":           {"Bearer " + good[:len(good)-1]},
		"a key that is not there":  {"Bearer " + unknown},
		"a key with another's id":  {"Bearer " + mixed},
		"a key of data planes":     {"Bearer dp" + strings.TrimPrefix(good, "ak")},
		"a JWT without an issuer":  {"Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJvbGdhIn0."},
		"an expired key":           {"Bearer " + expired.Token},
		"a revoked key":            {"Bearer " + revoked.Token},
		"two good headers":         {"Bearer " + good, "Bearer " + good},
		"two tokens in one header": {"Bearer " + good + ", Bearer " + good},
		"10 KiB":                   {"Bearer " + strings.Repeat("a", 10<<10)},
	}
	for _, o := range aikeystest.Operations(t) {
		for name, values := range credentials {
			t.Run(o.OperationID+" with "+name, func(t *testing.T) {
				o.Header = http.Header{"Authorization": values}
				reply := s.Send(t, o.Request)
				require.Equal(t, http.StatusUnauthorized, reply.Status)
				require.Equal(t, "unauthenticated", reply.Problem(t).Code)
				require.Empty(t, reply.Problem(t).Errors)
			})
		}
	}
	require.Empty(t, list(t, s, owner))
}

// An answer to a request without a session says nothing about its other faults, and the body is not read.
func TestCredentialIsCheckedFirst(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	for name, r := range map[string]aikeystest.Request{
		"a broken body":         {Method: http.MethodPost, Path: project + "/aikeys", Body: []byte(`{"secret":"` + secret)},
		"an unknown parameter":  {Method: http.MethodGet, Path: project + "/aikeys?" + secret + "=1"},
		"a malformed id":        {Method: http.MethodGet, Path: project + "/aikeys/" + secret + "%20"},
		"a huge body":           {Method: http.MethodPost, Path: project + "/aikeys", Body: []byte(strings.Repeat(secret, 4<<10))},
		"another content type":  {Method: http.MethodPost, Path: project + "/aikeys", Header: http.Header{"Content-Type": {secret}}},
		"an unknown provider":   {Method: http.MethodGet, Path: project + "/resolve?provider=" + secret},
		"another's customer id": {Method: http.MethodGet, Path: "/v1/customers/globex/projects/web/aikeys"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, http.StatusUnauthorized, s.Send(t, r).Status) })
	}
}

func TestCredentialSpellings(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	token := s.As(owner).Token
	for _, header := range []string{"Bearer " + token, "bearer " + token, "BEARER  " + token, "Bearer ak-" + token} {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Header: http.Header{"Authorization": {header}}})
		require.Equal(t, http.StatusOK, reply.Status)
	}
}

// The handlers check in the database that the API key is live, so a cached session is refused too.
func TestRevokedCredential(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, o := range aikeystest.Operations(t) {
			t.Run(o.OperationID, func(t *testing.T) {
				c := s.NewSession(aikeystest.Customer, aikeystest.Project, owner, time.Time{})
				reply, err := c.WhoAmIWithResponse(t.Context())
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, reply.StatusCode(), "the session is cached")
				c.Revoke(t, aikeystest.Customer, aikeystest.Project)
				o.Token = c.Token
				require.Equal(t, http.StatusUnauthorized, s.Send(t, o.Request).Status)
			})
		}
		require.Empty(t, list(t, s, owner))
	})
}

func TestExpiredCredential(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *aikeystest.Service) {
		expires := time.Now().Add(2 * time.Second)
		c := s.NewSession(aikeystest.Customer, aikeystest.Project, owner, expires)
		reply, err := c.WhoAmIWithResponse(t.Context())
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, reply.StatusCode())
		require.WithinDuration(t, expires, *reply.JSON200.ExpiresAt, time.Millisecond)
		time.Sleep(time.Until(expires))
		reply, err = c.WhoAmIWithResponse(t.Context())
		require.NoError(t, err)
		require.Equal(t, http.StatusUnauthorized, reply.StatusCode())
	})
}

func TestHostileIDs(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("kept"))
	members := get(t, s, owner, project+"/members").Body
	keyID, secret := key.ID, s.Secret()
	hostile := map[string]string{ // path segments, escaped, that are not valid ids
		"dots":                       "..",
		"a dot":                      ".",
		"escaped dots":               "%2e%2e",
		"escaped dots, twice":        "%252e%252e",
		"an escaped slash":           "a%2Fb",
		"up and down":                "..%2F..%2F" + keyID,
		"a slash":                    "a/b",
		"a NUL":                      "%00",
		"an id and a NUL":            keyID + "%00",
		"a space":                    "%20",
		"an id and a space":          keyID + "%20",
		"a space and an id":          "%20" + keyID,
		"an id and a line end":       keyID + "%0A",
		"an id and a trailing slash": keyID + "/",
		"an id and a parameter":      keyID + ";x=1",
		"two ids":                    keyID + "," + keyID,
		"Unicode":                    "%C3%A9",
		"invalid UTF-8":              "%ff%fe",
		"a wide digit":               "byok_" + "%EF%BC%90" + keyID[6:],
		"SQL":                        "'%20OR%20'1'='1",
		"a wildcard":                 "%25",
		"a pattern":                  "byok__________________________",
		"a template":                 "%7Bid%7D",
		"65 characters":              strings.Repeat("a", 65),
		"4 KiB":                      strings.Repeat("a", 4<<10),
		"a secret":                   secret,
		"an upper-case prefix":       "BYOK_" + keyID[5:],
		"a lower-case id":            strings.ToLower(keyID),
		"a bare lower-case id":       strings.ToLower(keyID[5:]),
		"a prefix twice":             "byok_" + keyID,
		"an id of an event":          "evt_" + keyID[5:],
		"an id past its time":        "byok_8" + keyID[6:],
		"an id of letters I, L, O":   "byok_01ILOU" + keyID[11:],
		"an id too short":            keyID[:30],
		"an id too long":             keyID + "0",
	}
	type request struct{ method, path string }
	requests := map[string]request{}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		for name, id := range hostile {
			requests["key, "+name+", "+method] = request{method, project + "/aikeys/" + id}
		}
		for _, path := range []string{"/v1/aikeys/", project + "/aikeys/", "/v1/customers//projects//aikeys/"} {
			requests["no id at all of "+path+", "+method] = request{method, path}
		}
	}
	for name, id := range hostile {
		for _, below := range []string{"/aikeys", "/aikeys/" + key.ID} {
			requests["customer, "+name+below] = request{http.MethodGet, "/v1/customers/" + id + "/projects/web" + below}
			requests["project, "+name+below] = request{http.MethodGet, "/v1/customers/acme/projects/" + id + below}
		}
	}
	for name, r := range requests {
		t.Run(name, func(t *testing.T) {
			reply := s.Send(t, aikeystest.Request{Method: r.method, Path: r.path, Token: s.As(owner).Token})
			allowed := []int{http.StatusBadRequest, http.StatusNotFound}
			if !strings.HasPrefix(r.path, project+"/aikeys/") && !strings.HasPrefix(name, "no id") {
				allowed = append(allowed, http.StatusForbidden)
			}
			require.Contains(t, allowed, reply.Status)
			if strings.HasPrefix(name, "key, ") && reply.Status == http.StatusBadRequest {
				require.Equal(t, []string{"id"}, reply.Fields(t))
			}
		})
	}
	for _, name := range []string{
		"a pattern", "an upper-case prefix", "a lower-case id", "a bare lower-case id", "a prefix twice", "an id of an event",
		"an id past its time", "an id of letters I, L, O", "an id too short", "an id too long",
	} {
		delete(hostile, name) // no key has this id, but a user may
	}
	hostile["a dash"] = "-"
	for name, id := range hostile {
		t.Run("member, "+name, func(t *testing.T) {
			path := strings.ReplaceAll(project+"/members/"+id, key.ID, exampleKey)
			require.Contains(t, []int{http.StatusBadRequest, http.StatusNotFound}, del(t, s, owner, path).Status)
			if name == "a secret" {
				return // it is a valid user id, so the service may list it
			}
			if strings.Contains(id, "/") {
				return // this is another path
			}
			reply := put(t, s, owner, path, map[string]any{"role": "owner"})
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{"user_id"}, reply.Fields(t))
		})
	}
	require.Equal(t, members, get(t, s, owner, project+"/members").Body)
	keys := list(t, s, owner)
	require.Len(t, keys, 1)
	require.Equal(t, "active", keys[0].State)
}

func TestUnknownPaths(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("kept"))
	paths := map[string]string{
		"a customer that ends in a path":  "/v1/customers/acme%2Fprojects%2Fweb/projects/web/aikeys",
		"a project that ends in a path":   "/v1/customers/acme/projects/web%2Faikeys/aikeys",
		"projects within a customer":      "/v1/customers/acme/projects/web/projects/web/aikeys",
		"an escaped method":               "/v1/%61ikeys/" + key.ID,
		"an upper-case path":              "/V1/aikeys",
		"a double slash":                  "//v1/aikeys",
		"two empty customers":             "/v1/customers///projects/web/aikeys",
		"no projects":                     "/v1/customers//aikeys",
		"a longer method":                 "/v1/aikeysx",
		"a method beside it":              "/v1/aikeys%2F" + key.ID,
		"a short form of another method":  "/v1/members",
		"a short form within":             "/v1/customers/acme/projects/web/v1/aikeys",
		"a trailing slash":                "/v1/whoami/",
		"a resource below a key":          "/v1/aikeys/" + key.ID + "/rotate/x",
		"nothing":                         "/",
		"a version that is not there":     "/v2/aikeys",
		"the data planes' API":            "/v1/fetch",
		"an operator's page":              "/metrics",
		"a profile":                       "/debug/pprof/",
		"a file":                          "/..%2f..%2fetc%2fpasswd",
		"the document's own placeholders": "/v1/customers/:customer_id/projects/:project_id/aikeys",
	}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			reply := get(t, s, owner, path)
			require.Contains(t, []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound}, reply.Status)
		})
	}
}

func TestWrongMethod(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	allowed := map[string][]string{}
	for _, o := range aikeystest.Operations(t) {
		path, _, _ := strings.Cut(o.Path, "?")
		allowed[path] = append(allowed[path], o.Method)
	}
	key := s.As(owner).Register(t, s.Shared("kept"))
	for path, methods := range allowed {
		path = strings.ReplaceAll(path, exampleKey, key.ID)
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "TRACE", "PROPFIND", "get", "QUERY"} {
			if slices.Contains(methods, method) {
				continue
			}
			t.Run(method+" "+path, func(t *testing.T) {
				reply := s.Send(t, aikeystest.Request{Method: method, Path: path, Token: s.As(owner).Token})
				require.Equal(t, http.StatusMethodNotAllowed, reply.Status)
				require.ElementsMatch(t, append(methods, http.MethodOptions), strings.Split(reply.Header.Get("Allow"), ", "))
			})
		}
		t.Run("OPTIONS "+path, func(t *testing.T) {
			reply := s.Send(t, aikeystest.Request{Method: http.MethodOptions, Path: path})
			require.Equal(t, http.StatusNoContent, reply.Status)
			require.ElementsMatch(t, append(methods, http.MethodOptions), strings.Split(reply.Header.Get("Allow"), ", "))
			require.Empty(t, reply.Header.Get("Access-Control-Allow-Origin"))
		})
	}
	t.Run("a header can't make it another", func(t *testing.T) {
		for _, name := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
			reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: project + "/aikeys/" + key.ID, Token: s.As(owner).Token,
				Header: http.Header{name: {http.MethodDelete}}})
			require.Equal(t, http.StatusOK, reply.Status)
			reply = s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: project + "/aikeys/" + key.ID + "?_method=DELETE", Token: s.As(owner).Token,
				Header: http.Header{name: {http.MethodDelete}}})
			require.Equal(t, http.StatusMethodNotAllowed, reply.Status)
		}
		require.Equal(t, "active", list(t, s, owner)[0].State)
	})
}

func TestMalformedRequests(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret, token := s.Secret(), s.As(owner).Token
	const end = "\r\nHost: x\r\nConnection: close\r\n"
	auth := "Authorization: Bearer " + token + "\r\n"
	for name, text := range map[string]string{
		"a space in the path":     "GET /v1/aikeys/" + secret + " x HTTP/1.1" + end + auth + "\r\n",
		"Unicode in the path":     "GET /v1/aikeys/é" + secret + " HTTP/1.1" + end + auth + "\r\n",
		"a NUL in the path":       "GET /v1/aikeys/\x00" + secret + " HTTP/1.1" + end + auth + "\r\n",
		"a NUL in a header":       "GET /v1/aikeys HTTP/1.1" + end + auth + "Idempotency-Key: a\x00" + secret + "\r\n\r\n",
		"no host":                 "GET /v1/aikeys HTTP/1.1\r\n" + auth + "\r\n",
		"an absolute URL":         "GET http://" + secret + "/v1/nowhere HTTP/1.1" + end + auth + "\r\n",
		"every path at once":      "OPTIONS * HTTP/1.1" + end + auth + "\r\n",
		"a tunnel":                "CONNECT " + secret + ":443 HTTP/1.1" + end + auth + "\r\n",
		"length and chunks":       "POST /v1/aikeys HTTP/1.1" + end + auth + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another transfer coding": "POST /v1/aikeys HTTP/1.1" + end + auth + "Transfer-Encoding: gzip\r\n\r\n" + secret,
		"two lengths":             "POST /v1/aikeys HTTP/1.1" + end + auth + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"a broken chunk":          "POST /v1/aikeys HTTP/1.1" + end + auth + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\n",
		"HTTP of the future":      "GET /v1/aikeys HTTP/9.9" + end + "\r\n",
		"no HTTP":                 secret + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.URL, "http://"))
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			_, err = io.WriteString(conn, text)
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			answer, err := httputil.DumpResponse(resp, true)
			require.NoError(t, err)
			require.NotEqual(t, http.StatusInternalServerError, resp.StatusCode)
			require.GreaterOrEqual(t, resp.StatusCode, http.StatusOK)
			require.Empty(t, aikeystest.FindIn(answer, secret)) // net/http may answer by itself, so only secrecy is checked
		})
	}
}

func TestSourceIP(t *testing.T) {
	t.Parallel()
	source := func(t *testing.T, s *aikeystest.Service, headers http.Header) string {
		reply := s.Send(t, register(t, s, rand.Text(), func(r *aikeystest.Request) { r.Header = headers }))
		require.Equal(t, http.StatusCreated, reply.Status)
		event := events(t, s, owner)[0]
		require.Equal(t, reply.Header.Get("X-Request-Id"), event.RequestID)
		require.Equal(t, event.SourceIP, s.LogLine(t, reply)["source_ip"])
		return event.SourceIP
	}
	forwarded := func(values ...string) http.Header { return http.Header{"X-Forwarded-For": values} }

	t.Run("nobody's word is taken for it by default", func(t *testing.T) {
		s := aikeystest.Start(t, aikeystest.Options{})
		for _, name := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip", "Cf-Connecting-Ip"} {
			require.Equal(t, "127.0.0.1", source(t, s, http.Header{name: {"203.0.113.7"}}), name)
		}
	})
	t.Run("a trusted proxy's is", func(t *testing.T) {
		s := aikeystest.Start(t, aikeystest.Options{TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48"),
		}})
		for name, tc := range map[string]struct {
			headers http.Header
			want    string
		}{
			"no header":                       {http.Header{}, "127.0.0.1"},
			"one address":                     {forwarded("203.0.113.7"), "203.0.113.7"},
			"the nearest that is no proxy":    {forwarded("198.51.100.9, 203.0.113.7, 10.1.2.3"), "203.0.113.7"},
			"one with a port, as Azure sends": {forwarded("203.0.113.7:4711"), "203.0.113.7"},
			"over two headers":                {forwarded("198.51.100.9, 203.0.113.7", "10.1.2.3"), "203.0.113.7"},
			"what the caller put before it":   {forwarded("10.0.0.1, 203.0.113.7"), "203.0.113.7"},
			"IPv6":                            {forwarded("2001:db8:2::7, 2001:db8:1::1"), "2001:db8:2::7"},
			"a private one that is no proxy":  {forwarded("192.168.1.2"), "192.168.1.2"},
			"a secret":                        {forwarded(s.Secret()), "127.0.0.1"},
			"a name":                          {forwarded("localhost"), "127.0.0.1"},
			"another header":                  {http.Header{"X-Real-Ip": {"203.0.113.7"}}, "127.0.0.1"},
		} {
			t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, source(t, s, tc.headers)) })
		}
	})
	t.Run("and no other's", func(t *testing.T) {
		s := aikeystest.Start(t, aikeystest.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
		require.Equal(t, "127.0.0.1", source(t, s, forwarded("203.0.113.7, 10.1.2.3")))
	})
}

// The service makes its own request ids, since a caller's id could be anything.
func TestRequestID(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	seen := map[string]bool{}
	for range 10 {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: s.As(owner).Token,
			Header: http.Header{"X-Request-Id": {secret}, "X-Correlation-Id": {secret}, "Traceparent": {secret}, "Baggage": {"a=" + secret},
				"User-Agent": {secret}, "Referer": {secret}, "Cookie": {secret}, "Accept-Language": {secret}}})
		require.Equal(t, http.StatusOK, reply.Status)
		seen[reply.Header.Get("X-Request-Id")] = true
	}
	require.Len(t, seen, 10)
	t.Run("and a caller's trace goes on without what it carries", func(t *testing.T) {
		const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: s.As(owner).Token, Header: http.Header{
			"Traceparent": {"00-" + traceID + "-00f067aa0ba902b7-01"}, "Tracestate": {"vendor=" + secret}, "Baggage": {"a=" + secret},
		}})
		require.Equal(t, http.StatusOK, reply.Status)
		require.Contains(t, s.Evidence.Spans(), traceID)
	})
}

// TestBadBody sends every body that is wrong under any schema to every operation that takes a body, with a secret in
// each place. As in all tests, aikeystest checks that no reply, log line, metric or span has the secret.
func TestBadBody(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody == nil {
			continue
		}
		good := goodBody(t, s, o.Body)
		secret, text := s.Secret(), string(encode(t, good))
		member, open := `"`+secret+`":`, strings.TrimSuffix(text, "}")
		var many strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&many, `,"%s%d":1`, secret, i)
		}
		bodies := map[string]string{
			"nothing":                 "",
			"spaces alone":            "  \n",
			"no JSON":                 secret,
			"broken JSON":             open,
			"a broken string":         open + `,"x":"` + secret,
			"a missing comma":         open + ` "x":"` + secret + `"}`,
			"single quotes":           `{'secret':'` + secret + `'}`,
			"a comment":               "/*" + secret + "*/" + text,
			"NaN":                     open + `,` + member + `NaN}`,
			"two documents":           text + `{"secret":"` + secret + `"}`,
			"trailing text":           text + secret,
			"a trailing NUL":          text + "\x00",
			"a byte order mark":       "\uFEFF" + text,
			"UTF-16":                  "\xff\xfe{\x00}\x00",
			"invalid UTF-8":           open + `,` + `"x":"` + secret + "\xff" + `"}`,
			"invalid UTF-8 in a name": open + `,"` + secret + "\xff" + `":1}`,
			"half a surrogate pair":   open + `,"x":"` + secret + `\ud800"}`,
			"a raw line end":          open + `,"x":"` + secret + "\n" + `"}`,
			"an array":                `["` + secret + `"]`,
			"an array of bodies":      `[` + text + `]`,
			"a string":                `"` + secret + `"`,
			"a number":                `1234567890`,
			"true":                    `true`,
			"null":                    `null`,
			"an unknown member":       open + `,` + member + `1}`,
			"an unknown object":       open + `,` + member + `{"` + secret + `":["` + secret + `"]}}`,
			"an empty name":           open + `,"":"` + secret + `"}`,
			"deep nesting":            open + `,` + member + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`,
			"deep nesting, unclosed":  strings.Repeat(`{"a":`, 12_000),
			"a huge number":           open + `,` + member + `1e999999}`,
			"a number of many digits": open + `,` + member + strings.Repeat("9", 50_000) + `}`,
			"many members":            open + many.String() + `}`,
		}
		for name, value := range good {
			again := `,"` + name + `":` + string(encode(t, value)) + `}`
			bodies[name+" twice"] = open + again
			for _, variant := range []string{
				strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], name + " ", " " + name, name + "\u200b", fmt.Sprintf(`\u%04x`, name[0]) + name[1:],
			} {
				bodies[name+" and "+variant] = open + strings.Replace(again, name, variant, 1)
			}
		}
		for name, body := range bodies {
			t.Run(o.OperationID+" with "+name, func(t *testing.T) { requireBadBody(t, s, o.Request, []byte(body), "body") })
		}
	}
	require.Empty(t, list(t, s, owner))
	require.Empty(t, events(t, s, owner))
}

// requireBadBody sends a request with a body. It requires a refusal that names the field.
func requireBadBody(t *testing.T, s *aikeystest.Service, r aikeystest.Request, body []byte, field string) {
	r.Token, r.Body = s.As(owner).Token, body
	reply := s.Send(t, r)
	require.Equal(t, http.StatusBadRequest, reply.Status, "%s", reply.Body)
	p := reply.Problem(t)
	require.Equal(t, "invalid_argument", p.Code)
	require.Contains(t, reply.Fields(t), field)
	for _, field := range p.Errors {
		require.NotEmpty(t, field.Message)
	}
}

// goodBody returns the document's example with a hidden secret, if it has one.
func goodBody(t *testing.T, s *aikeystest.Service, example []byte) map[string]any {
	var good map[string]any
	require.NoError(t, json.Unmarshal(example, &good))
	if _, ok := good["secret"]; ok {
		good["secret"], good["provider"] = "sk-"+s.Secret(), "openai"
	}
	return good
}

// TestBadBodyMember sends each member with values that its schema forbids, to every operation that takes a body.
func TestBadBodyMember(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody == nil {
			continue
		}
		good, body := goodBody(t, s, o.Body), o.RequestBody.Value.Content["application/json"].Schema.Value
		for name, ref := range body.Properties {
			schema, secret, bodies := ref.Value, s.Secret(), map[string]map[string]any{}
			with := func(what string, value any) {
				changed := maps.Clone(good)
				changed[name] = value
				bodies[name+" that is "+what] = changed
			}
			if slices.Contains(body.Required, name) {
				without := maps.Clone(good)
				delete(without, name)
				bodies["no "+name] = without
			}
			if !schema.Nullable {
				with("null", nil)
			}
			if !schema.Type.Is("array") {
				with("a list", []any{secret})
			}
			with("a number", 1234567)
			if !schema.Type.Is("object") {
				with("an object", map[string]any{secret: secret})
			}
			if !schema.Type.Is("boolean") {
				with("true", true)
			}
			if !schema.Type.Is("string") {
				with("a string", secret)
				with("a string of JSON", `{"`+secret+`":true}`)
			}
			if schema.MinLength > 0 {
				with("empty", "")
			}
			if schema.MaxLength != nil {
				long := strings.Repeat(secret, int(*schema.MaxLength)/len(secret)+1)
				with("too long", long)
				with("too long by one", long[:*schema.MaxLength]+"x")
			}
			if schema.Enum != nil {
				with("none of the choices", secret)
				choice := fmt.Sprint(schema.Enum[0])
				with("a choice in upper case", strings.ToUpper(choice))
				with("a choice and a space", choice+" ")
				with("no choice at all", "")
			}
			if schema.Pattern != "" {
				for what, value := range map[string]string{
					"begun with a space": " " + secret, "ended with a space": secret + " ", "begun with a tab": "\t" + secret,
					"of two lines": secret + "\n" + secret, "ended with a line end": secret + "\n", "with a NUL": "a\x00" + secret,
					"with an escape": "a\x1b[31m" + secret, "with DEL": "a\x7f" + secret, "a space": " ",
				} {
					with(what, value)
				}
			}
			for what, bad := range bodies {
				t.Run(o.OperationID+" with "+what, func(t *testing.T) { requireBadBody(t, s, o.Request, encode(t, bad), name) })
			}
		}
	}
	require.Empty(t, list(t, s, owner))
	require.Empty(t, events(t, s, owner))
}

func TestSeveralViolations(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	reply := s.Send(t, aikeystest.Request{
		Method: http.MethodPost, Path: project + "/aikeys?x=1", Token: s.As(owner).Token, Header: http.Header{"Idempotency-Key": {"a b"}},
		Body: encode(t, map[string]any{"name": "", "secret": 5, "user_scope": secret, secret: secret}),
	})
	require.Equal(t, http.StatusBadRequest, reply.Status)
	require.ElementsMatch(t, []string{"Idempotency-Key", "query", "body", "name", "provider", "secret", "user_scope"}, reply.Fields(t))
}

// register returns a request to register a shared key, with the caller's changes.
func register(t *testing.T, s *aikeystest.Service, name string, changes ...func(*aikeystest.Request)) aikeystest.Request {
	r := aikeystest.Request{
		Method: http.MethodPost, Path: project + "/aikeys", Token: s.As(owner).Token, Body: encode(t, s.Shared(name)), Header: http.Header{},
	}
	for _, change := range changes {
		change(&r)
	}
	return r
}

func header(name string, values ...string) func(*aikeystest.Request) {
	return func(r *aikeystest.Request) { r.Header[name] = values }
}

func TestContentType(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	refused := map[string]func(*aikeystest.Request){
		"no content type":             header("Content-Type"),
		"an empty content type":       header("Content-Type", ""),
		"plain text":                  header("Content-Type", "text/plain"),
		"a form":                      header("Content-Type", "application/x-www-form-urlencoded"),
		"a multipart form":            header("Content-Type", "multipart/form-data; boundary=x"),
		"a longer name":               header("Content-Type", "application/jsonx"),
		"a JSON of another kind":      header("Content-Type", "application/merge-patch+json"),
		"two types in one header":     header("Content-Type", "application/json, text/plain"),
		"two content types":           header("Content-Type", "application/json", "text/plain"),
		"the same twice":              header("Content-Type", "application/json", "application/json"),
		"another charset":             header("Content-Type", "application/json; charset=latin1"),
		"a charset twice":             header("Content-Type", "application/json; charset=utf-8; charset=utf-16"),
		"a broken parameter":          header("Content-Type", "application/json; "+secret),
		"a secret as content type":    header("Content-Type", secret),
		"a secret as charset":         header("Content-Type", "application/json; charset="+secret),
		"gzip":                        header("Content-Encoding", "gzip"),
		"a secret as encoding":        header("Content-Encoding", secret),
		"two encodings in one header": header("Content-Encoding", "identity, gzip"),
		"two encodings":               header("Content-Encoding", "identity", "gzip"),
	}
	for name, change := range refused {
		t.Run(name, func(t *testing.T) {
			reply := s.Send(t, register(t, s, name, change))
			require.Equal(t, http.StatusUnsupportedMediaType, reply.Status)
			require.Equal(t, "invalid_argument", reply.Problem(t).Code)
		})
	}
	t.Run("a body that is zipped indeed", func(t *testing.T) {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		_, err := w.Write(encode(t, s.Shared("zipped")))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		r := register(t, s, "", header("Content-Encoding", "gzip"))
		r.Body = zipped.Bytes()
		require.Equal(t, http.StatusUnsupportedMediaType, s.Send(t, r).Status)
	})
	require.Empty(t, list(t, s, owner))
	for name, change := range map[string]func(*aikeystest.Request){
		"UTF-8 in upper case":    header("Content-Type", "application/json; charset=UTF-8"),
		"quoted":                 header("Content-Type", `application/json;charset="utf-8"`),
		"in other letter case":   header("Content-Type", "Application/JSON"),
		"with another parameter": header("Content-Type", "application/json; profile=x"),
		"identity":               header("Content-Encoding", "identity"),
		"chunked":                func(r *aikeystest.Request) { r.Chunked = true },
	} {
		t.Run("taken: "+name, func(t *testing.T) {
			require.Equal(t, http.StatusCreated, s.Send(t, register(t, s, name, change)).Status)
		})
	}
}

func TestBodyTooLarge(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	secret := s.Secret()
	padded := func(size int) []byte {
		body := encode(t, s.Shared("padded"))
		return append(bytes.Repeat([]byte(" "), size-len(body)), body...)
	}
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody == nil {
			continue
		}
		for name, body := range map[string][]byte{
			"one byte too many": padded(64<<10 + 1),
			"1 MiB":             []byte(`{"secret":"` + strings.Repeat(secret, 32<<10) + `"}`),
		} {
			for _, chunked := range []bool{false, true} {
				o.Token, o.Body, o.Chunked = s.As(owner).Token, body, chunked
				reply := s.Send(t, o.Request)
				require.Equal(t, http.StatusRequestEntityTooLarge, reply.Status, "%s, %s", o.OperationID, name)
			}
		}
	}
	t.Run("and one of the limit is not", func(t *testing.T) {
		r := register(t, s, "")
		r.Body = padded(64 << 10)
		require.Equal(t, http.StatusCreated, s.Send(t, r).Status)
	})
	t.Run("a secret of 16 KiB fits, escaped as it may be", func(t *testing.T) {
		long := "sk-" + strings.Repeat(`\"`, 16<<10-3)
		r := register(t, s, "")
		r.Body = []byte(`{"provider":"openai","name":"long","secret":"` + long + `"}`)
		require.Equal(t, http.StatusCreated, s.Send(t, r).Status)
	})
}

func TestBadQuery(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	key := s.As(owner).Register(t, s.Shared("n"))
	secret := s.Secret()
	eventsToken := "ZXZ0XzAxSkQ4UTZaM1gwQjRENkY4SDlKMUszTTVO" // evt_01JD8Q6Z3X0B4D6F8H9J1K3M5N
	cases := []struct{ name, path, field string }{
		{"an unknown parameter", "/aikeys?x=1", "query"},
		{"a secret as name", "/aikeys?" + secret + "=1", "query"},
		{"a secret as name, without a value", "/aikeys?" + secret, "query"},
		{"a secret as value of an unknown one", "/aikeys?secret=" + secret, "query"},
		{"a name in upper case", "/aikeys?PROVIDER=openai", "query"},
		{"a name of arrays", "/aikeys?provider[]=openai", "query"},
		{"a name with a NUL", "/aikeys?provider%00=openai", "query"},
		{"an unknown one where none is taken", "/aikeys/" + key.ID + "?" + secret + "=" + secret, "query"},
		{"a broken escape", "/aikeys?" + secret + "=%zz", "query"},
		{"a semicolon", "/aikeys?provider=openai;" + secret, "query"},
		{"twice", "/aikeys?provider=openai&provider=" + secret, "provider"},
		{"twice the same", "/aikeys?provider=openai&provider=openai", "provider"},
		{"an unknown provider", "/aikeys?provider=" + secret, "provider"},
		{"an empty provider", "/aikeys?provider=", "provider"},
		{"a provider without a value", "/aikeys?provider", "provider"},
		{"a provider too long", "/aikeys?provider=" + strings.Repeat(secret, 3), "provider"},
		{"a provider with a NUL", "/aikeys?provider=openai%00", "provider"},
		{"a provider that is not UTF-8", "/aikeys?provider=%ff" + secret, "provider"},
		{"an unknown state", "/aikeys?state=" + secret, "state"},
		{"a state in upper case", "/aikeys?state=ACTIVE", "state"},
		{"no provider to resolve", "/resolve", "provider"},
		{"an unknown provider to resolve", "/resolve?provider=" + secret, "provider"},
		{"two providers to resolve", "/resolve?provider=openai&provider=anthropic", "provider"},
		{"an invalid token", "/aikeys?page_token=" + secret, "page_token"},
		{"a token of another alphabet", "/aikeys?page_token=%21" + secret, "page_token"},
		{"an empty token", "/aikeys?page_token=", "page_token"},
		{"a token too long", "/aikeys?page_token=" + strings.Repeat("A", 129), "page_token"},
		{"a token of the events", "/aikeys?page_token=" + eventsToken, "page_token"},
		{"a token of the keys for events", "/events?page_token=YnlvazY", "page_token"},
		{"a member's token that is no id", "/members?page_token=IA", "page_token"},
		{"a page of events too long", "/events?page_size=501", "page_size"},
		{"an escape in a wait", "/aikeys/" + key.ID + "?wait=2s%0a", "wait"},
	}
	for _, size := range []string{"x", secret, "", "0", "-1", "1001", "01", "1.0", "1e2", "%2B5", "+5", "0x10", "9999999999999999999", "null", "1%00", "٣"} {
		for _, path := range []string{"/aikeys", "/events", "/members"} {
			cases = append(cases, struct{ name, path, field string }{"size " + size, path + "?page_size=" + size, "page_size"})
		}
	}
	for _, tc := range cases {
		t.Run(tc.path[:4]+" "+tc.name, func(t *testing.T) {
			reply := get(t, s, owner, project+tc.path)
			require.Equal(t, http.StatusBadRequest, reply.Status)
			require.Equal(t, []string{tc.field}, reply.Fields(t))
		})
	}
}

// aikeystest checks for every service that no line holds a token.
func TestLogOfRefusals(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	revoked := s.NewSession("acme", "web", owner, time.Time{})
	send := func(header http.Header) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: project + "/aikeys", Header: header})
	}
	bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	require.Equal(t, http.StatusOK, send(bearer(revoked.Token)).Status)
	revoked.Revoke(t, "acme", "web")
	bad := s.Secret()
	unknown, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	s.Evidence.Hide(unknown)
	texts := map[string]string{}
	for name, tc := range map[string]struct {
		reply  func() aikeystest.Reply
		status int
	}{
		"no credential":    {func() aikeystest.Reply { return send(nil) }, http.StatusUnauthorized},
		"no bearer":        {func() aikeystest.Reply { return send(http.Header{"Authorization": {"Basic " + bad}}) }, http.StatusUnauthorized},
		"no token of ours": {func() aikeystest.Reply { return send(bearer(bad)) }, http.StatusUnauthorized},
		"an unknown key":   {func() aikeystest.Reply { return send(bearer(unknown)) }, http.StatusUnauthorized},
		"a revoked key":    {func() aikeystest.Reply { return send(bearer(revoked.Token)) }, http.StatusUnauthorized},
		"a stranger":       {func() aikeystest.Reply { return get(t, s, sam, project+"/aikeys") }, http.StatusForbidden},
		"another customer": {func() aikeystest.Reply { return get(t, s, owner, "/v1/customers/globex/projects/web/aikeys") }, http.StatusForbidden},
		"a member":         {func() aikeystest.Reply { return put(t, s, member, project+"/policy", map[string]any{}) }, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			reply := tc.reply()
			require.Equal(t, tc.status, reply.Status)
			line := s.LogLine(t, reply)
			text, _ := line["error"].(string)
			require.Equal(t, "INFO", line["level"])
			require.NotEmpty(t, text)
			require.NotContains(t, texts, text, "another cause")
			texts[text] = name
		})
	}
	require.NotContains(t, s.Evidence.Log(), bad)
	require.NotContains(t, s.Evidence.Log(), strings.TrimPrefix(revoked.Token, revoked.TokenID))
}

func TestLogLevelOfStrangersRequests(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{
		FailureRate: ratelimit.Rate{PerSecond: 0.0001, Burst: 1}, PrincipalRate: ratelimit.Rate{PerSecond: 0.0001, Burst: 2},
	})
	send := func(method, path, token string) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: method, Path: path, Token: token})
	}
	level := func(reply aikeystest.Reply, status int) any {
		require.Equal(t, status, reply.Status)
		line := s.LogLine(t, reply)
		if status != http.StatusUnauthorized {
			require.NotContains(t, line, "error")
		}
		return line["level"]
	}
	require.Equal(t, "DEBUG", level(send(http.MethodGet, "/nowhere", ""), http.StatusNotFound))
	require.Equal(t, "DEBUG", level(send(http.MethodPatch, "/v1/aikeys", ""), http.StatusMethodNotAllowed))
	require.Equal(t, "INFO", level(send(http.MethodGet, "/v1/whoami", ""), http.StatusUnauthorized), "within the limit")
	require.Equal(t, "DEBUG", level(send(http.MethodGet, "/v1/whoami", ""), http.StatusTooManyRequests))
	// These callers are authenticated.
	path := project + "/aikeys/byok_01JD8Q6Z3VQW2E4R6T8Y0A1S3D"
	require.Equal(t, "INFO", level(send(http.MethodGet, path, s.As(owner).Token), http.StatusNotFound))
	require.Equal(t, "DEBUG", level(send(http.MethodGet, "/v1/whoami", s.As(owner).Token), http.StatusOK))
	require.Equal(t, "DEBUG", level(send(http.MethodGet, path, s.As(owner).Token), http.StatusTooManyRequests))
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	var ready atomic.Bool
	s := aikeystest.Start(t, aikeystest.Options{Ready: ready.Load})
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			requireUnavailable(t, s.Send(t, o.Request)) // with any credential
			o.Token = s.As(owner).Token
			requireUnavailable(t, s.Send(t, o.Request))
		})
	}
	ready.Store(true)
	require.Empty(t, list(t, s, owner))
	require.Empty(t, events(t, s, owner))
}

func TestExamplesAnswerOnRequest(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{Examples: true})
	ask := func(o aikeystest.Operation, prefer string) aikeystest.Reply {
		request := o.Request
		request.Token, request.Header = s.As(owner).Token, http.Header{"Prefer": {prefer}}
		return s.Send(t, request) // s.Send checks the answer against the document
	}
	operations := aikeystest.Operations(t)
	for _, o := range operations {
		examples, err := httpapi.ExamplesOf(o.Operation)
		require.NoError(t, err)
		require.Greater(t, len(examples), 3, o.OperationID)
		for _, e := range examples {
			prefer := fmt.Sprintf("respond-async, code=%d", e.Status)
			if e.Name != "" {
				prefer += fmt.Sprintf("; Example=%q", e.Name)
			}
			reply := ask(o, prefer)
			require.Equal(t, e.Status, reply.Status, "%s: %s: %s", o.OperationID, prefer, reply.Body)
			require.Contains(t, reply.Header["Preference-Applied"], fmt.Sprintf("code=%d", e.Status))
		}
	}
	list := slices.IndexFunc(operations, func(o aikeystest.Operation) bool { return o.OperationID == "listKeys" })
	for prefer, want := range map[string]struct {
		status int
		says   string
	}{
		"example=not_an_owner":       {http.StatusForbidden, "Only an owner"},
		"example=last_page":          {http.StatusOK, "openai-old"},
		"code=418":                   {http.StatusBadRequest, "it answers 200, 400, 401"},
		"code=200, example=nothing":  {http.StatusBadRequest, "there are first_page, last_page, none, one"},
		"respond-async, barcode=404": {http.StatusOK, `"keys":[]`},
		"":                           {http.StatusOK, `"keys":[]`},
	} {
		reply := ask(operations[list], prefer)
		require.Equal(t, want.status, reply.Status, prefer)
		require.Contains(t, string(reply.Body), want.says)
	}
	require.Equal(t, http.StatusUnauthorized, s.Send(t, aikeystest.Request{Path: "/v1/whoami", Header: http.Header{"Prefer": {"code=200"}}}).Status)
	off := aikeystest.Start(t, aikeystest.Options{}).As(owner)
	reply, err := off.WhoAmIWithResponse(t.Context(), func(_ context.Context, r *http.Request) error {
		r.Header.Set("Prefer", "code=403")
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, reply.StatusCode(), "the service itself ignores it")
}

func TestRateLimitPerUser(t *testing.T) {
	t.Parallel()
	const burst = 5
	s := aikeystest.Start(t, aikeystest.Options{PrincipalRate: ratelimit.Rate{PerSecond: 0.7, Burst: burst}})
	ask := func(session *aikeystest.Session) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: session.Token})
	}
	for i := range burst {
		reply, err := s.As(owner).WhoAmIWithResponse(t.Context())
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, reply.StatusCode())
		requireQuota(t, reply.HTTPResponse.Header, burst, burst-1-i)
	}
	limited := time.Now()
	wait := requireExhausted(t, ask(s.As(owner)))
	t.Run("with another API key of theirs and in another project too", func(t *testing.T) {
		requireExhausted(t, ask(s.NewSession("acme", "web", owner, time.Time{})))
		requireExhausted(t, ask(s.Session("acme", "ops", owner)))
	})
	t.Run("whatever the request", func(t *testing.T) {
		for _, o := range aikeystest.Operations(t) {
			o.Token = s.As(owner).Token
			reply := s.Send(t, o.Request)
			requireExhausted(t, reply)
			requireQuota(t, reply.Header, burst, 0)
		}
	})
	t.Run("and nobody else", func(t *testing.T) {
		require.Equal(t, http.StatusOK, ask(s.As(member)).Status)
		require.Equal(t, http.StatusOK, ask(s.Session("globex", "web", owner)).Status, "who has the same user id")
	})
	t.Run("a bad credential is not counted for whom it names", func(t *testing.T) {
		for range 2 * burst {
			reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: s.As(other).Token + "x"})
			require.Equal(t, http.StatusUnauthorized, reply.Status)
		}
		require.Equal(t, http.StatusOK, ask(s.As(other)).Status)
	})
	t.Run("after the time in Retry-After it works again", func(t *testing.T) {
		time.Sleep(time.Until(limited.Add(wait)))
		require.Equal(t, http.StatusOK, ask(s.As(owner)).Status)
	})
}

// requireQuota checks the RateLimit headers. On a slow machine, a limit of 0.7 a second may have one more request left.
func requireQuota(t *testing.T, header http.Header, limit, left int) {
	number := func(name string) int {
		n, err := strconv.Atoi(header.Get("RateLimit-" + name))
		require.NoError(t, err, name)
		return n
	}
	require.Equal(t, limit, number("Limit"))
	require.GreaterOrEqual(t, number("Remaining"), left)
	require.Less(t, number("Remaining"), limit)
	require.Positive(t, number("Reset"))
}

func TestRateLimitOfFailures(t *testing.T) {
	const burst = 5
	s := aikeystest.Start(t, aikeystest.Options{
		FailureRate:    ratelimit.Rate{PerSecond: 0.1, Burst: burst},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	from := func(address, token string) aikeystest.Reply {
		return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: token, Header: http.Header{"X-Forwarded-For": {address}}})
	}
	bad := s.As(owner).Token + "x"
	for range burst {
		require.Equal(t, http.StatusUnauthorized, from("203.0.113.7", bad).Status)
	}
	guessed := from("203.0.113.7", bad)
	require.Equal(t, 10*time.Second, requireExhausted(t, guessed))
	require.Empty(t, guessed.Header.Get("RateLimit-Limit"), "which is of users")
	requireExhausted(t, from("203.0.113.7", ""))
	requireExhausted(t, from("::ffff:203.0.113.7", bad))
	t.Run("a good credential from there goes on working", func(t *testing.T) {
		for range 3 * burst {
			require.Equal(t, http.StatusOK, from("203.0.113.7", s.As(owner).Token).Status)
		}
	})
	t.Run("another address is another", func(t *testing.T) {
		require.Equal(t, http.StatusUnauthorized, from("203.0.113.8", bad).Status)
	})
	t.Run("an IPv6 host's addresses are one", func(t *testing.T) {
		for i := range burst {
			require.Equal(t, http.StatusUnauthorized, from("2001:db8:0:1::"+strconv.Itoa(i), bad).Status)
		}
		requireExhausted(t, from("2001:db8:0:1:ffff::1", bad))
		require.Equal(t, http.StatusUnauthorized, from("2001:db8:0:2::1", bad).Status)
	})
	t.Run("what is not an address is the proxy's own", func(t *testing.T) {
		for i := range burst {
			require.Equal(t, http.StatusUnauthorized, from("made-up-"+strconv.Itoa(i), bad).Status)
		}
		requireExhausted(t, from("made-up-too", bad))
	})
}

// A client can't reset its limit by sending another address in a header.
func TestRateLimitIgnoresForgedAddresses(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{FailureRate: ratelimit.Rate{PerSecond: 0.1, Burst: 3}})
	statuses := map[int]int{}
	for i := range 10 {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: "bad",
			Header: http.Header{"X-Forwarded-For": {"203.0.113." + strconv.Itoa(i)}}})
		statuses[reply.Status]++
	}
	require.Equal(t, map[int]int{http.StatusUnauthorized: 3, http.StatusTooManyRequests: 7}, statuses)
}

// withIssuer runs a service that takes the session tokens of an issuer.
func withIssuer(t *testing.T) (*aikeystest.Service, *authtest.Issuer) {
	issuer := authtest.NewIssuer(t)
	oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience})
	require.NoError(t, err)
	return aikeystest.Start(t, aikeystest.Options{OIDC: oidc}), issuer
}

// claims returns the claims of a user in the fixture's project, with changes.
func claims(user string, changes map[string]any) map[string]any {
	all := map[string]any{"sub": user, "customer_id": "acme", "project_id": "web"}
	maps.Copy(all, changes)
	return all
}

func whoAmI(t *testing.T, s *aikeystest.Service, token string) aikeystest.Reply {
	s.Evidence.Hide(token)
	return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: token})
}

func TestSessionToken(t *testing.T) {
	s, issuer := withIssuer(t)
	expires := time.Now().Add(time.Minute).Truncate(time.Second)
	token := issuer.Sign(claims(owner, map[string]any{"exp": expires.Unix()}))
	role := gen.Role("owner")
	who := decode[gen.WhoAmIResponse](t, whoAmI(t, s, token))
	require.True(t, expires.Equal(*who.ExpiresAt))
	who.ExpiresAt = nil
	require.Equal(t, gen.WhoAmIResponse{CustomerID: "acme", ProjectID: "web", UserID: owner, Role: &role, Method: "oidc"}, who)

	t.Run("with the rights of its user and no more", func(t *testing.T) {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, s.Shared("n"))})
		require.Equal(t, http.StatusCreated, reply.Status)
		event := events(t, s, owner)[0]
		require.Equal(t, gen.Actor{UserID: owner, Method: "oidc"}, event.Actor)
		for user, want := range map[string]int{member: http.StatusForbidden, sam: http.StatusForbidden} {
			theirs := issuer.Sign(claims(user, nil))
			s.Evidence.Hide(theirs)
			reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: theirs, Body: encode(t, s.Shared("m"))})
			require.Equal(t, want, reply.Status)
		}
	})
	t.Run("and those of another customer's user are theirs", func(t *testing.T) {
		theirs := issuer.Sign(claims(owner, map[string]any{"customer_id": "globex"}))
		s.Evidence.Hide(theirs)
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: project + "/aikeys", Token: theirs})
		require.Equal(t, http.StatusForbidden, reply.Status)
	})
	t.Run("a removed member has lost the project", func(t *testing.T) {
		theirs := issuer.Sign(claims(other, nil))
		require.NotNil(t, decode[gen.WhoAmIResponse](t, whoAmI(t, s, theirs)).Role)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/"+other).Status)
		require.Nil(t, decode[gen.WhoAmIResponse](t, whoAmI(t, s, theirs)).Role)
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/aikeys", Token: theirs})
		require.Equal(t, http.StatusForbidden, reply.Status)
	})
}

func TestBadSessionTokens(t *testing.T) {
	s, issuer := withIssuer(t)
	impostor := authtest.NewIssuer(t)
	good := issuer.Sign(claims(owner, nil))
	require.Equal(t, http.StatusOK, whoAmI(t, s, good).Status)
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"expired":            issuer.Sign(claims(owner, map[string]any{"exp": time.Now().Add(-time.Second).Unix()})),
		"without an end":     issuer.Sign(claims(owner, map[string]any{"exp": nil})),
		"not valid yet":      issuer.Sign(claims(owner, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})),
		"for another":        issuer.Sign(claims(owner, map[string]any{"aud": "another"})),
		"of another issuer":  impostor.Sign(claims(owner, nil)),
		"in another's name":  authtest.SignWith(t, impostor.Key(), issuer.Claims(claims(owner, nil))),
		"without a customer": issuer.Sign(claims(owner, map[string]any{"customer_id": nil})),
		"with a path as id":  issuer.Sign(claims(owner, map[string]any{"customer_id": "../globex"})),
		"with a dash as id":  issuer.Sign(claims(owner, map[string]any{"project_id": "-"})),
		"without signature":  parts[0] + "." + parts[1] + ".",
		"with another body":  parts[0] + "." + strings.Split(issuer.Sign(claims(sam, nil)), ".")[1] + "." + parts[2],
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, http.StatusUnauthorized, whoAmI(t, s, token).Status) })
	}
}

func TestSessionTokenIssuerOutage(t *testing.T) {
	s, issuer := withIssuer(t)
	first := issuer.Sign(claims(owner, nil))
	require.Equal(t, http.StatusOK, whoAmI(t, s, first).Status)
	issuer.Rotate()
	second := issuer.Sign(claims(owner, nil))
	require.Equal(t, http.StatusOK, whoAmI(t, s, second).Status, "the new key is found")
	require.Equal(t, http.StatusOK, whoAmI(t, s, first).Status, "the old one still counts")

	issuer.Break(authtest.Refuse)
	require.Equal(t, http.StatusOK, whoAmI(t, s, issuer.Sign(claims(member, nil))).Status, "known keys serve on")
	require.Equal(t, http.StatusOK, whoAmI(t, s, s.As(owner).Token).Status, "and API keys need no issuer")
}

func TestSessionTokenWithoutItsIssuer(t *testing.T) {
	t.Parallel()
	s, issuer := withIssuer(t)
	issuer.Break(authtest.Refuse)
	token := issuer.Sign(claims(owner, nil))
	requireUnavailable(t, whoAmI(t, s, token))
	issuer.Break(authtest.Healthy)
	require.Eventually(t, func() bool { return whoAmI(t, s, token).Status == http.StatusOK }, 10*time.Second, 100*time.Millisecond)
}

// replicas runs two services over one Postgres database, each with connections of its own.
func replicas(t *testing.T) (first, second *aikeystest.Service) {
	url, backend := modelstest.EnginePostgres.URL(t), secretstest.Backend(t)
	start := func() *aikeystest.Service {
		store := modelstest.OpenStore(t, url, models.Options{})
		_, err := store.Migrate(t.Context())
		require.NoError(t, err)
		return aikeystest.Start(t, aikeystest.Options{Store: store, Sealer: backend})
	}
	return start(), start()
}

func TestRevokedCredentialOnAnotherReplica(t *testing.T) {
	first, second := replicas(t)
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			session := first.NewSession("acme", "web", owner, time.Time{})
			for _, s := range []*aikeystest.Service{first, second} {
				require.Equal(t, http.StatusOK, whoAmI(t, s, session.Token).Status, "it is cached on both")
			}
			session.Revoke(t, "acme", "web")
			o.Token = session.Token
			for _, s := range []*aikeystest.Service{second, first} {
				require.Equal(t, http.StatusUnauthorized, s.Send(t, o.Request).Status)
			}
		})
	}
}

func TestReplicasAgree(t *testing.T) {
	first, second := replicas(t)
	token := first.As(owner).Token
	at := func(s *aikeystest.Service, method, path string, body any) aikeystest.Reply {
		r := aikeystest.Request{Method: method, Path: path, Token: token}
		if body != nil {
			r.Body = encode(t, body)
		}
		return s.Send(t, r)
	}
	t.Run("on keys", func(t *testing.T) {
		key := first.As(owner).Register(t, first.Shared("n"))
		require.Equal(t, http.StatusOK, at(second, http.MethodGet, "/v1/aikeys/"+key.ID, nil).Status)
		require.Equal(t, http.StatusConflict, at(second, http.MethodPost, "/v1/aikeys", second.Shared("n")).Status)
		require.Equal(t, http.StatusOK, at(second, http.MethodDelete, "/v1/aikeys/"+key.ID, nil).Status)
		require.Equal(t, "revoked", decode[gen.GetResponse](t, at(first, http.MethodGet, "/v1/aikeys/"+key.ID, nil)).Key.State)
	})
	t.Run("on a retry that comes to the other", func(t *testing.T) {
		body := first.Shared("retried")
		one, two := retry(t, first, token, "k", body), retry(t, second, token, "k", body)
		require.Equal(t, http.StatusCreated, one.Status)
		require.Equal(t, http.StatusCreated, two.Status)
		require.JSONEq(t, string(one.Body), string(two.Body))
		body.Name = "other"
		require.Equal(t, http.StatusUnprocessableEntity, retry(t, second, token, "k", body).Status)
	})
	t.Run("on retries that come to both at once", func(t *testing.T) {
		key, body := "both", first.Shared("at once")
		got := together(20, func(i int) string {
			s := []*aikeystest.Service{first, second}[i%2]
			reply, err := s.Client(token).RegisterKeyWithResponse(t.Context(), self, self, &gen.RegisterKeyParams{IdempotencyKey: &key}, body)
			if err != nil || reply.JSON201 == nil {
				return "no key"
			}
			return reply.JSON201.Key.ID
		})
		require.Equal(t, slices.Repeat(got[:1], 20), got)
		require.NotEqual(t, "no key", got[0])
	})
	t.Run("on members", func(t *testing.T) {
		require.Equal(t, http.StatusOK, get(t, second, member, project+"/aikeys").Status)
		require.Equal(t, http.StatusOK, at(first, http.MethodDelete, project+"/members/"+member, nil).Status)
		require.Equal(t, http.StatusForbidden, get(t, second, member, project+"/aikeys").Status)
	})
}

// This test has the allow-list of fields in the log, the metrics and the traces.
func TestObservedFields(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	name := "a-name-that-is-nobody-elses-business"
	reply := post(t, s, owner, project+"/aikeys", s.Shared(name))
	require.Equal(t, http.StatusCreated, reply.Status)
	require.Equal(t, http.StatusForbidden, get(t, s, sam, project+"/aikeys").Status)
	require.Equal(t, http.StatusNotFound, get(t, s, owner, "/"+name).Status)
	t.Run("log", func(t *testing.T) {
		line := s.LogLine(t, reply)
		for member := range line {
			require.Contains(t, []string{"time", "level", "msg", "request_id", "operation", "status", "took", "source_ip", "customer_id", "user_id", "token_id"}, member)
		}
		require.Equal(t, "registerKey", line["operation"])
		require.Equal(t, s.As(owner).TokenID, line["token_id"])
	})
	for place, text := range map[string]string{"log": s.Evidence.Log(), "metrics": s.Evidence.Metrics(), "spans": s.Evidence.Spans()} {
		t.Run(place+" without names and paths", func(t *testing.T) {
			require.NotEmpty(t, text)
			require.NotContains(t, text, name)
			require.NotContains(t, text, "/v1/")
		})
	}
	t.Run("metrics have no label that a caller can fill", func(t *testing.T) {
		metrics := s.Evidence.Metrics()
		require.Contains(t, metrics, `aikeys_http_requests_total{listener="public",operation="registerKey",status="201"} 1`)
		require.Contains(t, metrics, `aikeys_http_requests_total{listener="public",operation="none",status="404"} 1`)
		require.NotContains(t, metrics, owner)
	})
}

func document(t *testing.T) *openapi3.T {
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	return doc
}

func TestDocumentIsValid(t *testing.T) {
	require.NoError(t, document(t).Validate(t.Context(), openapi3.EnableExamplesValidation(), openapi3.EnableSchemaFormatValidation()))
}

func TestDocumentListsStatuses(t *testing.T) {
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			want := []int{400, 401, 429, 500, 503}
			if o.RequestBody != nil {
				want = append(want, 413, 415)
			}
			if strings.Contains(o.Path, "/projects/") {
				want = append(want, 403)
			}
			for _, status := range want {
				response := o.Responses.Status(status)
				require.NotNil(t, response, "status %d", status)
				require.NotNil(t, response.Value.Content.Get("application/problem+json"), "status %d", status)
			}
			require.Nil(t, o.Responses.Default(), "gen/aikeys/overlay.yaml leaves it out: undocumented statuses would pass the tests")
			require.Nil(t, o.Security, "an operation's own security could leave it open")
		})
	}
}

// Only this method needs no credential: it says how to get one.
func TestSignInOptionsNeedNoCredential(t *testing.T) {
	var open []string
	for _, item := range document(t).Paths.Map() {
		for _, op := range item.Operations() {
			if op.Security != nil {
				require.Empty(t, *op.Security, op.OperationID)
				open = append(open, op.OperationID)
			}
		}
	}
	require.Equal(t, []string{"getSignInOptions"}, open, "what strangers may call changes under a reviewer's eyes only")
	issuer := authtest.NewIssuer(t)
	const clientID, keys = "tare", `{"methods":["api_key"]}`
	for name, tc := range map[string]struct {
		cfg  *auth.OIDCConfig
		want string
	}{
		"no issuer":       {nil, keys},
		"no client":       {&auth.OIDCConfig{Audience: authtest.Audience}, `{"methods":["api_key","oidc"]}`},
		"an access token": {&auth.OIDCConfig{Audience: authtest.Audience, ClientID: clientID}, `"scopes":["openid"],"session_token":"access_token"}`},
		"an ID token":     {&auth.OIDCConfig{Audience: clientID, ClientID: clientID}, `"client_id":"tare","scopes":["openid"],"session_token":"id_token"}`},
	} {
		t.Run(name, func(t *testing.T) {
			opts := aikeystest.Options{FailureRate: ratelimit.Rate{PerSecond: 0.001, Burst: 1}}
			if tc.cfg != nil {
				tc.cfg.Issuer, tc.cfg.Scopes = issuer.URL, []string{"openid"}
				var err error
				opts.OIDC, err = auth.NewOIDC(*tc.cfg)
				require.NoError(t, err)
			}
			s := aikeystest.Start(t, opts)
			for _, header := range []string{"", "Bearer ak_wrong", "nonsense"} { // no credential is looked at
				request := aikeystest.Request{Method: http.MethodGet, Path: "/v1/sign-in"}
				if header != "" {
					request.Header = http.Header{"Authorization": {header}}
				}
				reply := s.Send(t, request)
				require.Equal(t, http.StatusOK, reply.Status)
				require.Contains(t, string(reply.Body), tc.want)
				require.Equal(t, "public, max-age=60", reply.Header.Get("Cache-Control"))
			}
			require.Equal(t, http.StatusBadRequest, s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/sign-in?a=1"}).Status)
		})
	}
	require.Zero(t, issuer.Fetches(), "the issuer is not asked")
}

// The catalogue and the document name the same providers: a new provider must be added to both.
func TestDocumentListsProviders(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	var slugs []any
	for _, slug := range catalogue.Slugs() {
		slugs = append(slugs, slug)
	}
	require.Equal(t, slugs, document(t).Components.Schemas["ProviderSlug"].Value.Extensions["x-extensible-enum"])
}

// Fields marked as secret must never be shown. The list is repeated here so that a reviewer sees every change to it.
func TestDocumentSecretFields(t *testing.T) {
	// walk calls secret with the path of each secret schema within a schema.
	var walk func(ref *openapi3.SchemaRef, secret func(path string))
	walk = func(ref *openapi3.SchemaRef, secret func(path string)) {
		if marked, _ := ref.Value.Extensions["x-secret"].(bool); marked {
			secret("")
		}
		for name, property := range ref.Value.Properties {
			walk(property, func(path string) { secret("." + name + path) })
		}
		if ref.Value.Items != nil {
			walk(ref.Value.Items, func(path string) { secret("[]" + path) })
		}
		if extra := ref.Value.AdditionalProperties.Schema; extra != nil {
			walk(extra, func(path string) { secret("{}" + path) })
		}
	}
	var found []string
	for _, o := range aikeystest.Operations(t) {
		if o.RequestBody != nil {
			walk(o.RequestBody.Value.Content["application/json"].Schema, func(path string) {
				found = append(found, "request "+o.OperationID+path)
			})
		}
		for _, ref := range o.Parameters {
			walk(ref.Value.Schema, func(string) { found = append(found, "parameter "+o.OperationID+" "+ref.Value.Name) })
		}
		for status, response := range o.Responses.Map() {
			for _, media := range response.Value.Content {
				walk(media.Schema, func(path string) { found = append(found, "response "+o.OperationID+" "+status+path) })
			}
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{"request findLeaks.values[]", "request registerKey.secret", "request rotateKey.secret", "response createToken 201.api_key"}, found)
}

// Every field that the document marks secret has a type that does not print its value.
func TestDocumentSecretsAreRedacted(t *testing.T) {
	const plain = "sk-0123456789abcdef"
	req := gen.RegisterRequest{Provider: "openai", Name: "n", Secret: gensecret.New(plain)}
	printed := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		printed[verb] = fmt.Sprintf(verb, req)
		printed["pointer "+verb] = fmt.Sprintf(verb, &req)
		printed["alone "+verb] = fmt.Sprintf(verb, req.Secret)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed["wrapped "+verb] = fmt.Sprintf(verb, gen.RegisterKeyRequestObject{Body: &req})
	}
	printed["error"] = fmt.Errorf("refused: %v", req).Error()
	for name, newHandler := range map[string]func(w *strings.Builder) slog.Handler{
		"text log": func(w *strings.Builder) slog.Handler { return slog.NewTextHandler(w, nil) },
		"JSON log": func(w *strings.Builder) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var line strings.Builder
		slog.New(newHandler(&line)).Info("request", slog.Any("secret", req.Secret))
		printed[name] = line.String()
	}
	for name, text := range printed {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, aikeystest.FindIn([]byte(text), plain))
			if !strings.HasPrefix(name, "wrapped") { // a wrapped value prints the address of a pointer
				require.Contains(t, text, "[redacted]")
			}
		})
	}
	t.Run("and yet goes over the wire", func(t *testing.T) {
		text, err := json.Marshal(req)
		require.NoError(t, err)
		require.Contains(t, string(text), strconv.Quote(plain))
	})
}

// FuzzPath checks that for every path the answer is documented, is not a 5xx, and shows nothing of another customer's.
func FuzzPath(f *testing.F) {
	for _, o := range aikeystest.Operations(f) {
		f.Add(o.Method, o.Path)
		f.Add(o.Method, strings.ReplaceAll(o.Path, "/-", "/"))
	}
	for _, seed := range []string{
		"/v1/aikeys/%2e%2e", "/v1/customers/globex/projects/web/aikeys", "/v1/customers/acme%2Fprojects%2Fweb/projects//aikeys",
		"//v1/aikeys", "/v1/aikeys/" + exampleKey + "?wait=2s", "/v1/aikeys?page_size=1&page_token=YnlvazY", "/v1/aikeys?a=%zz",
		"/v1/customers/../projects/./aikeys", "*", "/v1/customers/globex%00/projects/web/aikeys", "/v1/customers//projects//members/%C3%A9",
	} {
		f.Add(http.MethodGet, seed)
		f.Add(http.MethodDelete, seed)
	}
	s := aikeystest.Start(f, aikeystest.Options{})
	foreign := s.Session(aikeystest.OtherCustomer, aikeystest.Project, owner)
	const name = "of-another-customer"
	hidden := foreign.Register(f, s.Shared(name))
	token := s.As(owner).Token
	f.Fuzz(func(t *testing.T, method, path string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://localhost"+path, http.NoBody)
		if err != nil || !slices.Contains([]string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"}, method) {
			return // net/http would refuse it
		}
		req.Header.Set("Authorization", "Bearer "+token)
		reply, complaints := s.Serve(req)
		require.Empty(t, complaints)
		require.Less(t, reply.Status, http.StatusInternalServerError)
		require.NotContains(t, string(reply.Body), name)
		require.NotContains(t, string(reply.Body), hidden.ID)
		s.Evidence.Forget()
	})
}

func TestAnswersAreOrderedAsTheDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../spec/aikeys.yaml")
	require.NoError(t, err)
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties yaml.Node `yaml:"properties"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	require.NoError(t, yaml.Unmarshal(text, &document))
	for name, answer := range map[string]any{"Key": gen.Key{}, "Receipt": gen.Receipt{}, "DisableReceipt": gen.DisableReceipt{}, "Event": gen.Event{}} {
		var documented, sent []string
		properties := document.Components.Schemas[name].Properties.Content
		for i := 0; i < len(properties); i += 2 { // name, schema, name, schema
			documented = append(documented, properties[i].Value)
		}
		for field := range reflect.TypeOf(answer).Fields() {
			tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			sent = append(sent, tag)
		}
		require.NotEmpty(t, documented)
		require.Equal(t, documented, sent, "%s: gen/aikeys/overlay.yaml gives each member its place", name)
	}
}
