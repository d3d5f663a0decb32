package auth_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

func TestAPIKeySession(t *testing.T) {
	t.Run("it has the row's customer, user and project", func(t *testing.T) {
		store := newTokens()
		text, id := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store})
		p, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		require.Equal(t, auth.Principal{
			CustomerID: "acme", UserID: "ann", ProjectID: "prod", TokenID: id, Method: auth.MethodAPIKey,
		}, p)
	})
	t.Run("a wrong secret for a known id is told no more than an unknown id", func(t *testing.T) {
		store := newTokens()
		known, id := store.Mint(t)
		unknown, _, _, err := auth.MintAPIKey(time.Now())
		require.NoError(t, err)
		a := auth.New(auth.Config{Tokens: store})
		store.Change(id, func(row *models.Token) { row.Hash = make([]byte, 32) })
		wrongSecret := requireRefused(t, a, bearer(known))
		require.Equal(t, requireRefused(t, a, bearer(unknown)).Error(), wrongSecret.Error())
		store.Revoke(id)
		require.Equal(t, wrongSecret.Error(), requireRefused(t, a, bearer(known)).Error(), "nor that it is revoked")
		require.Equal(t, 3, store.Finds(), "failed look-ups are not cached")
	})
	t.Run("a row without a whole hash opens nothing", func(t *testing.T) {
		store := newTokens()
		text, id := store.Mint(t)
		store.Change(id, func(row *models.Token) { row.Hash = row.Hash[:16] })
		requireRefused(t, auth.New(auth.Config{Tokens: store}), bearer(text))
		store.Change(id, func(row *models.Token) { row.Hash = nil })
		requireRefused(t, auth.New(auth.Config{Tokens: store}), bearer(text))
	})
	t.Run("a revoked key is refused", func(t *testing.T) {
		store := newTokens()
		text, id := store.Mint(t)
		store.Revoke(id)
		err := requireRefused(t, auth.New(auth.Config{Tokens: store}), bearer(text))
		require.ErrorContains(t, err, "revoked", "the log says why")
	})
	t.Run("a key that expires while its session is cached is refused from that instant", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		expiry := now.Now().Add(100 * time.Millisecond)
		store.Change(id, func(row *models.Token) { row.ExpiresAt = expiry.UnixMicro() })
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		p, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		require.True(t, p.ExpiresAt.Equal(expiry))
		now.Advance(100*time.Millisecond - time.Microsecond)
		_, err = a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		require.Equal(t, 1, store.Finds(), "it was cached")
		now.Advance(time.Microsecond)
		requireRefused(t, a, bearer(text))
	})
}

func TestStoreFailureIsNeverARefusal(t *testing.T) {
	for name, cause := range map[string]error{
		"database unavailable": models.ErrUnavailable,
		"an error of its own":  errors.New("disk on fire"),
	} {
		t.Run(name, func(t *testing.T) {
			store := newTokens()
			text, _ := store.Mint(t)
			store.Fail(cause)
			a := auth.New(auth.Config{Tokens: store})
			_, err := a.Authenticate(t.Context(), bearer(text))
			require.ErrorIs(t, err, cause)
			require.NotErrorIs(t, err, auth.ErrUnauthenticated)
			requireQuiet(t, err, text)
			store.Fail(nil)
			_, err = a.Authenticate(t.Context(), bearer(text))
			require.NoError(t, err, "the failure was not cached")
		})
	}
	bubble(t, "a look-up that hangs is given up as unavailable", func(t *testing.T) {
		store := newTokens()
		text, _ := store.Mint(t)
		store.answer = func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return ctx.Err()
		}
		a := auth.New(auth.Config{Tokens: store})
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.ErrorIs(t, err, models.ErrUnavailable)
		require.NotErrorIs(t, err, auth.ErrUnauthenticated)
	})
	t.Run("a caller that leaves gets its context's error", func(t *testing.T) {
		store := newTokens()
		text, _ := store.Mint(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := auth.New(auth.Config{Tokens: store}).Authenticate(ctx, bearer(text))
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, auth.ErrUnauthenticated)
	})
	t.Run("a panic in the store reaches the caller's goroutine, where the server recovers it", func(t *testing.T) {
		store := newTokens()
		text, _ := store.Mint(t)
		store.answer = func(context.Context, int) error { panic("bug") }
		a := auth.New(auth.Config{Tokens: store})
		require.PanicsWithValue(t, "bug", func() { _, _ = a.Authenticate(t.Context(), bearer(text)) })
	})
}

func TestAuthorizationHeader(t *testing.T) {
	store := newTokens()
	text, _ := store.Mint(t)
	other, _ := store.Mint(t)
	jwt := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"

	for name, header := range map[string]string{
		"as documented":    "Bearer " + text,
		"lower-case":       "bearer " + text,
		"upper-case":       "BEARER " + text,
		"two spaces":       "Bearer  " + text,
		"ak- before token": "Bearer ak-" + text,
	} {
		t.Run("accepted: "+name, func(t *testing.T) {
			_, err := auth.New(auth.Config{Tokens: store}).Authenticate(t.Context(), header)
			require.NoError(t, err)
		})
	}
	finds := store.Finds()
	for name, header := range map[string]string{
		"missing":              "",
		"scheme alone":         "Bearer",
		"no token":             "Bearer ",
		"spaces only":          "Bearer     ",
		"no scheme":            text,
		"no space":             "Bearer" + text,
		"tab for space":        "Bearer\t" + text,
		"space before":         " Bearer " + text,
		"Basic":                "Basic " + text,
		"Basic of bearer":      "Basic Bearer " + text,
		"longer scheme":        "BearerX " + text,
		"two tokens":           "Bearer " + text + " " + other,
		"two with comma":       "Bearer " + text + "," + other,
		"two headers joined":   "Bearer " + text + ", Bearer " + other,
		"trailing comma":       "Bearer " + text + ",",
		"trailing space":       "Bearer " + text + " ",
		"trailing NUL":         "Bearer " + text + "\x00",
		"trailing newline":     "Bearer " + text + "\r\n",
		"quoted":               `Bearer "` + text + `"`,
		"not UTF-8":            "Bearer \xff\xfe",
		"1 MB token":           "Bearer " + strings.Repeat("a", 1<<20),
		"1 MB of spaces":       "Bearer " + strings.Repeat(" ", 1<<20) + text,
		"JWT of four parts":    "Bearer " + jwt + ".x",
		"JWT of empty parts":   "Bearer ..",
		"JWS in JSON":          `Bearer {"payload":"e30","signatures":[]}`,
		"JWT without issuer":   "Bearer " + jwt,
		"a provider's key":     "Bearer sk-proj-abcdefghijklmnopqrstuvwxyz",
		"key of a data plane":  "Bearer dp" + text[2:],
		"key, one letter gone": "Bearer " + text[:20] + text[21:],
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			requireRefused(t, auth.New(auth.Config{Tokens: store}), header)
		})
	}
	require.Equal(t, finds, store.Finds(), "what is malformed costs no look-up")
}

func TestCache(t *testing.T) {
	t.Run("a session is looked up once while its TTL lasts, and again after", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, _ := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		for range 10 {
			_, err := a.Authenticate(t.Context(), bearer(text))
			require.NoError(t, err)
			now.Advance(49 * time.Millisecond)
		}
		require.Equal(t, 1, store.Finds())
		now.Advance(10 * time.Millisecond)
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		require.Equal(t, 2, store.Finds())
	})
	t.Run("another replica's revocation holds here within a second, however long a TTL is asked for", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now, CacheTTL: time.Hour})
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		store.Revoke(id)
		now.Advance(time.Second - time.Microsecond)
		requireRefused(t, a, bearer(text))
	})
	t.Run("it holds no more than its size", func(t *testing.T) {
		store := newTokens()
		a := auth.New(auth.Config{Tokens: store, CacheSize: 50})
		for range 500 {
			text, _ := store.Mint(t)
			_, err := a.Authenticate(t.Context(), bearer(text))
			require.NoError(t, err)
		}
		require.LessOrEqual(t, a.CacheLen(), 50)
		require.Positive(t, a.CacheLen())
	})
	t.Run("refusals take no room in it", func(t *testing.T) {
		a := auth.New(auth.Config{Tokens: newTokens()})
		for range 100 {
			text, _, _, err := auth.MintAPIKey(time.Now())
			require.NoError(t, err)
			requireRefused(t, a, bearer(text))
		}
		require.Zero(t, a.CacheLen())
	})
}

// FuzzAuthenticate: no header panics, and none opens a session that nobody was given.
func FuzzAuthenticate(f *testing.F) {
	text, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(f, err)
	for _, header := range []string{
		"Bearer " + text, "Bearer a.b.c", "Bearer eyJhbGciOiJub25lIn0.e30.", "Basic x", "Bearer", "bearer ak-ak_",
		"Bearer eyJhbGciOiJFUzI1NiIsImNyaXQiOlsiYjY0Il0sImI2NCI6ZmFsc2V9.e30.AAAA",
	} {
		f.Add(header)
	}
	oidc, err := auth.NewOIDC(auth.OIDCConfig{
		Issuer: "http://127.0.0.1:1", Audience: "aikeys", HTTPClient: &http.Client{Transport: noNetwork{}},
	})
	require.NoError(f, err)
	a := auth.New(auth.Config{Tokens: newTokens(), OIDC: oidc})
	f.Fuzz(func(t *testing.T, header string) {
		_, err := a.Authenticate(t.Context(), header)
		if !errors.Is(err, auth.ErrIssuerUnavailable) {
			require.ErrorIs(t, err, auth.ErrUnauthenticated)
		}
	})
}

// noNetwork is a transport that reaches nothing.
type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no network")
}
