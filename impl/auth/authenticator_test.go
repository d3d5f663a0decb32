package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
	"github.com/agentrouter/aikeys/models"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// tokens is a TokenFinder in memory. After reading a row it calls answer, if set, in which a test can block it.
type tokens struct {
	mu     sync.Mutex
	rows   map[string]models.Token
	err    error
	finds  atomic.Int64
	answer func(ctx context.Context, find int64) error
}

func newTokens() *tokens { return &tokens{rows: map[string]models.Token{}} }

func (s *tokens) FindToken(ctx context.Context, id string) (models.Token, error) {
	find := s.finds.Add(1)
	s.mu.Lock()
	row, err, answer := s.rows[id], s.err, s.answer
	s.mu.Unlock()
	if err == nil && row.ID == "" {
		err = fmt.Errorf("token: %w", models.ErrNotFound)
	}
	if answer != nil {
		if err := answer(ctx, find); err != nil {
			return models.Token{}, err
		}
	}
	return row, err
}

func (s *tokens) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Change alters a row.
func (s *tokens) Change(id string, change func(*models.Token)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := s.rows[id]
	change(&row)
	s.rows[id] = row
}

func (s *tokens) Revoke(id string) { s.Change(id, func(row *models.Token) { row.RevokedAt = 1 }) }

// Mint stores a live API key of acme, prod, ann and returns its text and id.
func (s *tokens) Mint(t testing.TB) (text, id string) {
	text, id, hash, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	s.Change(id, func(row *models.Token) {
		*row = models.Token{ID: id, Hash: hash, CustomerID: "acme", ProjectID: "prod", UserID: "ann", CreatedAt: 1}
	})
	return text, id
}

func bearer(token string) string { return "Bearer " + token }

// requireRefused asserts that the header opens no session, and that the error holds nothing of the token.
func requireRefused(t testing.TB, a *auth.Authenticator, header string) error {
	p, err := a.Authenticate(t.Context(), header)
	require.ErrorIs(t, err, auth.ErrUnauthenticated)
	require.NotErrorIs(t, err, models.ErrUnavailable)
	require.NotErrorIs(t, err, auth.ErrIssuerUnavailable)
	require.Zero(t, p)
	requireQuiet(t, err, header)
	return err
}

// requireQuiet asserts that no text of the error holds a long part of the header.
func requireQuiet(t testing.TB, err error, header string) {
	text := fmt.Sprintf("%v %+v %#v %q", err, err, err, err)
	parts := strings.FieldsFunc(header, func(r rune) bool { return strings.ContainsRune("_. ,", r) })
	for _, part := range parts {
		if len(part) >= 8 && len(part) < 4096 {
			require.NotContains(t, text, part)
		}
	}
	require.Less(t, len(text), 2048, "an error repeats no input of the caller's length")
}

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
		require.EqualValues(t, 3, store.finds.Load(), "failed look-ups are not cached")
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
		require.EqualValues(t, 1, store.finds.Load(), "it was cached")
		now.Advance(time.Microsecond)
		requireRefused(t, a, bearer(text))
	})
}

func TestStoreFailure(t *testing.T) {
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
		store.answer = func(ctx context.Context, _ int64) error {
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
	t.Run("a panic in the store is an error with a stack and without the panic's value", func(t *testing.T) {
		store := newTokens()
		text, _ := store.Mint(t)
		store.answer = func(context.Context, int64) error { panic("hunter2") }
		a := auth.New(auth.Config{Tokens: store})
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.ErrorContains(t, err, "FindToken")
		require.NotContains(t, err.Error(), "hunter2")
		require.NotErrorIs(t, err, auth.ErrUnauthenticated)
	})
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
		require.EqualValues(t, 1, store.finds.Load())
		now.Advance(10 * time.Millisecond)
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		require.EqualValues(t, 2, store.finds.Load())
	})
	t.Run("another replica's revocation holds here within a second", func(t *testing.T) {
		store, now := newTokens(), newClock()
		text, id := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store, Now: now.Now})
		_, err := a.Authenticate(t.Context(), bearer(text))
		require.NoError(t, err)
		store.Revoke(id)
		now.Advance(time.Second - time.Microsecond)
		requireRefused(t, a, bearer(text))
	})
	t.Run("it holds no more than its size", func(t *testing.T) {
		store := newTokens()
		a := auth.New(auth.Config{Tokens: store})
		for range 11_000 {
			text, _ := store.Mint(t)
			_, err := a.Authenticate(t.Context(), bearer(text))
			require.NoError(t, err)
		}
		require.LessOrEqual(t, a.CacheLen(), 10_000)
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

// bubble runs a subtest in a synctest bubble: it has its own clock, and synctest.Wait waits until all other goroutines
// are blocked.
func bubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestDrop(t *testing.T) {
	store, now := newTokens(), newClock()
	text, id := store.Mint(t)
	other, _ := store.Mint(t)
	a := auth.New(auth.Config{Tokens: store, Now: now.Now})
	for _, token := range []string{text, other} {
		_, err := a.Authenticate(t.Context(), bearer(token))
		require.NoError(t, err)
	}
	store.Revoke(id)
	_, err := a.Authenticate(t.Context(), bearer(text))
	require.NoError(t, err, "it is cached")
	a.Drop(id)
	requireRefused(t, a, bearer(text))
	_, err = a.Authenticate(t.Context(), bearer(other))
	require.NoError(t, err)
	require.EqualValues(t, 3, store.finds.Load(), "the other session stayed cached")
}

func TestSharedLookUp(t *testing.T) {
	// hold returns a store that reads its first row, closes read, and answers only when release is closed.
	hold := func() (store *tokens, read, release chan struct{}) {
		store, read, release = newTokens(), make(chan struct{}), make(chan struct{})
		store.answer = func(ctx context.Context, find int64) error {
			if find == 1 {
				close(read)
				<-release
			}
			return ctx.Err()
		}
		return store, read, release
	}
	// begin authenticates in the background and returns the channel of the resulting error.
	begin := func(ctx context.Context, a *auth.Authenticator, header string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := a.Authenticate(ctx, header)
			done <- err
		}()
		return done
	}
	bubble(t, "callers with one token share it, and the first one's leaving fails none", func(t *testing.T) {
		store, read, release := hold()
		text, _ := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store})
		ctx, cancel := context.WithCancel(t.Context())
		first := begin(ctx, a, bearer(text))
		<-read
		var others []<-chan error
		for range 20 {
			others = append(others, begin(t.Context(), a, bearer(text)))
		}
		cancel()
		require.ErrorIs(t, <-first, context.Canceled, "it does not wait for the look-up")
		synctest.Wait() // the other callers have joined the look-up
		close(release)
		for _, other := range others {
			require.NoError(t, <-other)
		}
		require.EqualValues(t, 1, store.finds.Load())
	})
	bubble(t, "two tokens do not wait for each other", func(t *testing.T) {
		store, read, release := hold()
		slow, _ := store.Mint(t)
		quick, _ := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store})
		waiting := begin(t.Context(), a, bearer(slow))
		<-read
		_, err := a.Authenticate(t.Context(), bearer(quick))
		require.NoError(t, err)
		close(release)
		require.NoError(t, <-waiting)
	})
	bubble(t, "one that took longer than the TTL is not cached", func(t *testing.T) {
		store, read, release := hold()
		text, id := store.Mint(t)
		a := auth.New(auth.Config{Tokens: store})
		early := begin(t.Context(), a, bearer(text))
		<-read
		store.Revoke(id)
		time.Sleep(time.Second)
		close(release)
		require.NoError(t, <-early)
		requireRefused(t, a, bearer(text))
	})
}

// FuzzAuthenticate checks that no header causes a panic or opens a session that it should not open.
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
		Issuer: "http://127.0.0.1:1", Audience: "aikeys", HTTPClient: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, errors.New("no network")
		})},
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

func BenchmarkAuthenticateCached(b *testing.B) {
	benchmark := func(b *testing.B, a *auth.Authenticator, token string) {
		header := bearer(token)
		_, err := a.Authenticate(b.Context(), header)
		require.NoError(b, err)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Authenticate(b.Context(), header); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("api_key", func(b *testing.B) {
		store := newTokens()
		text, _ := store.Mint(b)
		benchmark(b, auth.New(auth.Config{Tokens: store}), text)
	})
	b.Run("jwt", func(b *testing.B) {
		issuer := authtest.NewIssuer(b)
		benchmark(b, oidcSessions(b, issuer, newClock()), issuer.Sign(ann(nil)))
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics, err := auth.NewMetrics(registry)
	require.NoError(t, err)
	store := newTokens()
	good, _ := store.Mint(t)
	unknown, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	source := auth.New(auth.Config{Tokens: store, Metrics: metrics})
	ask := auth.Middleware(auth.MiddlewareConfig{Sessions: source, Metrics: metrics})(func(echo.Context) error { return nil })
	request := func(token string) error {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
		r.Header.Set("Authorization", bearer(token))
		return ask(echo.New().NewContext(r, httptest.NewRecorder()))
	}
	for range 3 {
		require.NoError(t, request(good)) // looked up once
	}
	require.ErrorIs(t, request(unknown), auth.ErrUnauthenticated)
	require.ErrorIs(t, request("malformed"), auth.ErrUnauthenticated)
	store.Fail(models.ErrUnavailable)
	require.ErrorIs(t, request(unknown), models.ErrUnavailable)

	rows := &dataPlanes{rows: map[string]models.DataPlane{}}
	dataPlane, _ := rows.mint(t, func(row *models.DataPlane) { row.Certificate = "dns:edge" })
	forDataPlanes := auth.New(auth.Config{DataPlanes: rows, Metrics: metrics})
	_, err = forDataPlanes.Authenticate(t.Context(), bearer(dataPlane))
	require.NoError(t, err)
	_, err = forDataPlanes.AuthenticateCertificate(t.Context(), []string{"dns:edge"})
	require.NoError(t, err)

	gathered, err := registry.Gather()
	require.NoError(t, err)
	var text strings.Builder
	for _, family := range gathered {
		_, err := expfmt.MetricFamilyToText(&text, family)
		require.NoError(t, err)
	}
	for _, line := range []string{
		`aikeys_session_authentications_total{result="ok"} 3`,
		`aikeys_session_authentications_total{result="refused"} 2`,
		`aikeys_session_authentications_total{result="unavailable"} 1`,
		`aikeys_session_lookups_total 5`,
	} {
		require.Contains(t, text.String(), "\n"+line)
	}
	_, err = auth.NewMetrics(registry)
	require.Error(t, err, "two of them would count twice")
}

// dataPlanes is a DataPlaneFinder in memory. It counts the look-ups of certificates.
type dataPlanes struct {
	rows  map[string]models.DataPlane
	err   error
	finds int
}

func (d *dataPlanes) FindDataPlane(_ context.Context, id string) (models.DataPlane, error) {
	if row, ok := d.rows[id]; ok {
		return row, d.err
	}
	return models.DataPlane{}, fmt.Errorf("data plane: %w", models.ErrNotFound)
}

func (d *dataPlanes) FindDataPlanesByCertificate(_ context.Context, names []string) (found []models.DataPlane, err error) {
	d.finds++
	for _, row := range d.rows {
		if slices.Contains(names, row.Certificate) && row.RevokedAt == 0 {
			found = append(found, row)
		}
	}
	return found, d.err
}

// mint stores a data plane, with the caller's changes, and returns its credential and id.
func (d *dataPlanes) mint(t *testing.T, change func(*models.DataPlane)) (text, id string) {
	text, id, hash, err := auth.MintDataPlane(time.Now())
	require.NoError(t, err)
	row := models.DataPlane{ID: id, Name: "edge", Hash: hash, Customers: []string{"acme"}, CreatedAt: 1}
	change(&row)
	d.rows[id] = row
	return text, id
}

func newDataPlanes(now func() time.Time) (*dataPlanes, *auth.Authenticator) {
	rows := &dataPlanes{rows: map[string]models.DataPlane{}}
	return rows, auth.New(auth.Config{DataPlanes: rows, Now: now})
}

func TestDataPlaneToken(t *testing.T) {
	clock := newClock()
	rows, a := newDataPlanes(clock.Now)
	text, id := rows.mint(t, func(*models.DataPlane) {})
	require.True(t, strings.HasPrefix(text, "dp_"+id+"_"))
	p, err := a.Authenticate(t.Context(), bearer(text))
	require.NoError(t, err)
	require.Equal(t, auth.Principal{DataPlaneID: id, Method: auth.MethodDataPlane}, p)

	expires := clock.Now().Add(time.Minute)
	text, _ = rows.mint(t, func(d *models.DataPlane) { d.ExpiresAt = expires.UnixMicro() })
	p, err = a.Authenticate(t.Context(), bearer(text))
	require.NoError(t, err)
	require.True(t, expires.Equal(p.ExpiresAt))
	clock.Advance(time.Minute)
	requireRefused(t, a, bearer(text))

	text, _ = rows.mint(t, func(d *models.DataPlane) { d.RevokedAt = 1 })
	requireRefused(t, a, bearer(text))
	text, id = rows.mint(t, func(*models.DataPlane) {})
	delete(rows.rows, id)
	requireRefused(t, a, bearer(text))
	for _, hash := range [][]byte{nil, {}} {
		text, _ = rows.mint(t, func(d *models.DataPlane) { d.Hash, d.Certificate = hash, "dns:edge.internal" })
		requireRefused(t, a, bearer(text))
	}
}

func TestDataPlaneAndUserTokensAreKeptApart(t *testing.T) {
	rows, forDataPlanes := newDataPlanes(nil)
	users := newTokens()
	forUsers := auth.New(auth.Config{Tokens: users})
	dp, _ := rows.mint(t, func(*models.DataPlane) {})
	ak, _ := users.Mint(t)
	requireRefused(t, forDataPlanes, bearer(ak))
	requireRefused(t, forDataPlanes, bearer("ak-"+ak))
	requireRefused(t, forDataPlanes, bearer("dp-"+dp))
	requireRefused(t, forDataPlanes, bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJvbGdhIn0."))
	requireRefused(t, forUsers, bearer(dp))
	_, err := forUsers.Authenticate(t.Context(), bearer(ak))
	require.NoError(t, err)
}

func TestAuthenticateCertificate(t *testing.T) {
	const edgeName = "dns:edge.internal"
	// newCertificates returns an Authenticator that knows one data plane, which has a certificate.
	newCertificates := func(now func() time.Time) (*dataPlanes, *auth.Authenticator) {
		rows, a := newDataPlanes(now)
		rows.rows["01EDGE"] = models.DataPlane{ID: "01EDGE", Name: "edge", Certificate: edgeName}
		return rows, a
	}
	requireCertificateRefused := func(t *testing.T, a *auth.Authenticator, names ...string) error {
		p, err := a.AuthenticateCertificate(t.Context(), names)
		require.ErrorIs(t, err, auth.ErrUnauthenticated)
		require.NotErrorIs(t, err, models.ErrUnavailable)
		require.Zero(t, p)
		return err
	}
	t.Run("it opens the cached session of the data plane that has one of its names", func(t *testing.T) {
		rows, a := newCertificates(nil)
		for range 3 {
			p, err := a.AuthenticateCertificate(t.Context(), []string{"cn:edge", edgeName})
			require.NoError(t, err)
			require.Equal(t, auth.Principal{DataPlaneID: "01EDGE", Method: auth.MethodDataPlane}, p)
		}
		require.Equal(t, 1, rows.finds)
	})
	t.Run("refused: no name, unknown names, names of two data planes, too many names", func(t *testing.T) {
		rows, a := newCertificates(nil)
		requireCertificateRefused(t, a)
		require.ErrorContains(t, requireCertificateRefused(t, a, "dns:other.internal"), "no data plane has a name")
		rows.rows["01OTHER"] = models.DataPlane{ID: "01OTHER", Certificate: "cn:other"}
		require.ErrorContains(t, requireCertificateRefused(t, a, edgeName, "cn:other"), "several")
		many := make([]string, 101)
		for i := range many {
			many[i] = fmt.Sprint("dns:", i)
		}
		finds := rows.finds
		requireCertificateRefused(t, a, many...)
		require.Equal(t, finds, rows.finds)
	})
	t.Run("refused where only users are accepted", func(t *testing.T) {
		requireCertificateRefused(t, auth.New(auth.Config{Tokens: newTokens()}), edgeName)
	})
	t.Run("its session ends when the data plane expires", func(t *testing.T) {
		clock := newClock()
		rows, a := newCertificates(clock.Now)
		expires := clock.Now().Add(time.Minute)
		rows.rows["01BRIEF"] = models.DataPlane{ID: "01BRIEF", Certificate: "cn:brief", ExpiresAt: expires.UnixMicro()}
		p, err := a.AuthenticateCertificate(t.Context(), []string{"cn:brief"})
		require.NoError(t, err)
		require.True(t, expires.Equal(p.ExpiresAt))
		clock.Advance(time.Minute)
		requireCertificateRefused(t, a, "cn:brief")
	})
	t.Run("its session ends when it is dropped", func(t *testing.T) {
		rows, a := newCertificates(newClock().Now)
		_, err := a.AuthenticateCertificate(t.Context(), []string{edgeName})
		require.NoError(t, err)
		delete(rows.rows, "01EDGE")
		a.Drop("01EDGE")
		requireCertificateRefused(t, a, edgeName)
	})
	t.Run("an unavailable database is not a refusal", func(t *testing.T) {
		rows, a := newCertificates(nil)
		rows.err = fmt.Errorf("down: %w", models.ErrUnavailable)
		_, err := a.AuthenticateCertificate(t.Context(), []string{edgeName})
		require.ErrorIs(t, err, models.ErrUnavailable)
		require.NotErrorIs(t, err, auth.ErrUnauthenticated)
	})
	// The cache finds tokens and certificates by a hash. A token whose text equals the text that is hashed for a
	// certificate's names must not find the certificate's session.
	t.Run("no token opens its cached session", func(t *testing.T) {
		_, a := newCertificates(newClock().Now)
		_, err := a.AuthenticateCertificate(t.Context(), []string{edgeName})
		require.NoError(t, err)
		text := append(binary.BigEndian.AppendUint64(nil, uint64(len(edgeName))), edgeName...)
		hash := sha256.Sum256(text)
		for _, token := range []string{edgeName, string(text), string(hash[:])} {
			requireRefused(t, a, bearer(token))
		}
	})
}
