package auth_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/agentrouter/aikeys/impl/auth"
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

// tokens is a TokenFinder in memory. After reading a row it calls answer, if set, where a test can hold it back.
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

// requireRefused asserts that the header opens no session, and that the error says nothing of the token.
func requireRefused(t testing.TB, a *auth.Authenticator, header string) error {
	p, err := a.Authenticate(t.Context(), header)
	require.ErrorIs(t, err, auth.ErrUnauthenticated)
	require.NotErrorIs(t, err, models.ErrUnavailable)
	require.NotErrorIs(t, err, auth.ErrIssuerUnavailable)
	require.Zero(t, p)
	requireQuiet(t, err, header)
	return err
}

// requireQuiet asserts that no rendering of the error holds a part of the header that is long enough to matter.
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
