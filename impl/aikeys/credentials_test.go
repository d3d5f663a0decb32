package aikeys_test

import (
	"hash/crc32"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
)

// badCredentials are Authorization headers that open no session, each with what is wrong with it.
func badCredentials(t *testing.T, s *aikeystest.Service) map[string][]string {
	t.Helper()
	good := s.As(owner).Token
	parts := strings.Split(good, "_")
	unknown, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	expired := s.NewSession(aikeystest.Customer, aikeystest.Project, owner, time.Now().Add(-time.Second))
	revoked := s.NewSession(aikeystest.Customer, aikeystest.Project, owner, time.Time{})
	revoked.Revoke(t, aikeystest.Customer, aikeystest.Project)
	// A key of another's id with one's own secret, its checksum right.
	foreign, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	mixed := rebuilt(parts[1], strings.Split(foreign, "_")[2])
	for _, token := range []string{unknown, foreign, mixed} {
		s.Evidence.Hide(token)
	}
	return map[string][]string{
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
}

// rebuilt returns an API key of those parts, with the checksum that belongs to them.
func rebuilt(id, secret string) string {
	body := "ak_" + id + "_" + secret
	digits := big.NewInt(int64(crc32.ChecksumIEEE([]byte(body)))).Text(62)
	return body + "_" + strings.Repeat("0", 6-len(digits)) + digits
}

// Every operation of the document, those to come included, asks for a credential.
func TestBadCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		credentials := badCredentials(t, s)
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
	})
}

// Who has no session learns nothing of what else is wrong with a request, and can make the service read no body.
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

// The handlers ask the database whether the key is still good, so a cached session helps nobody.
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
