package dataplane_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// counting counts the fetches of a Store that rested on memory.
type counting struct {
	dataplane.Store
	confirmed, outdated atomic.Int64
}

func (c *counting) RecordRemembered(ctx context.Context, r models.FetchRecord, found models.Fetched) (string, error) {
	asOf, err := c.Store.RecordRemembered(ctx, r, found)
	switch {
	case err == nil:
		c.confirmed.Add(1)
	case errors.Is(err, models.ErrChanged):
		c.outdated.Add(1)
	}
	return asOf, err
}

func counted(c *counting) func(*testing.T, *options) {
	return func(_ *testing.T, o *options) {
		o.store = func(s *models.Store) dataplane.Store { c.Store = s; return c }
	}
}

// remember has a fetch for a member answered from memory.
func (c *counting) remember(t *testing.T, dp *dataPlane, key held) {
	t.Helper()
	for before, began := c.confirmed.Load(), time.Now(); c.confirmed.Load() == before; {
		require.Less(t, time.Since(began), 10*time.Second, "nothing is remembered")
		requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
	}
}

func TestARememberedFetchIsAnsweredAndRecordedLikeAnyOther(t *testing.T) {
	c := &counting{}
	s := newPostgres(t, counted(c))
	dp, key := s.dataPlane(), s.shared("openai")
	read := fetch(t, dp, forUser(web, member, "openai"))
	c.remember(t, dp, key)
	remembered := fetch(t, dp, forUser(web, member, "openai"))
	records := s.records(acme, web)
	require.Equal(t, remembered.HTTPResponse.Header.Get("X-Request-Id"), records[0].RequestID)
	first := records[len(records)-1]
	require.Equal(t, read.HTTPResponse.Header.Get("X-Request-Id"), first.RequestID)
	first.ID, first.At, first.RequestID = records[0].ID, records[0].At, records[0].RequestID
	require.Equal(t, first, records[0])
	requireKey(t, read, key, "project_key")
	requireKey(t, remembered, key, "project_key")
	require.Equal(t, read.JSON200.Caller, remembered.JSON200.Caller)
}

func TestARememberedKeyIsNotGivenOutOnceItsRevocationIsAnswered(t *testing.T) {
	c := &counting{}
	s := newPostgres(t, counted(c))
	dp := s.dataPlane()
	for range 20 {
		key := s.shared("openai")
		c.remember(t, dp, key)
		s.public.As(owner).RevokeKey(t, key.ID)
		requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusNotFound, "no-key")
		require.Equal(t, []any{models.OutcomeDenied, "no_key", ""}, decision(s.records(acme, web)[0]))
	}
	require.Positive(t, c.outdated.Load(), "it was remembered when it was revoked")
}

func decision(r models.FetchRecord) []any { return []any{r.Decision, r.Reason, r.KeyID} }

func TestARememberedFetchThroughARevokedCredentialIsRefused(t *testing.T) {
	c := &counting{}
	s := newPostgres(t, counted(c))
	dp, key := s.dataPlane(), s.shared("openai")
	c.remember(t, dp, key)
	s.revoke(dp)
	require.Equal(t, http.StatusUnauthorized, fetch(t, dp, forUser(web, member, "openai")).StatusCode())
}

// retired does not open the envelopes that it is told of.
type retired struct {
	sealer.Sealer
	envelope atomic.Pointer[[]byte]
}

func (r *retired) Open(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
	if gone := r.envelope.Load(); gone != nil && bytes.Equal(*gone, envelope) {
		return sealer.Secret{}, sealer.ErrUnknownKEK
	}
	return r.Sealer.Open(ctx, b, envelope)
}

// A key may be re-wrapped, and its old key-encryption key retired, while its envelope is remembered.
func TestARememberedEnvelopeThatNoLongerOpensIsReadAnew(t *testing.T) {
	c, backend := &counting{}, &retired{Sealer: secretstest.Backend(t)}
	s := newPostgres(t, counted(c), func(_ *testing.T, o *options) { o.sealer = backend })
	dp, key := s.dataPlane(), s.shared("openai")
	c.remember(t, dp, key)
	old, err := s.store.SealedKey(t.Context(), key.ID)
	require.NoError(t, err)
	rewrapped, err := backend.Seal(t.Context(), sealer.Binding{
		CustomerID: acme, ProjectID: web, KeyID: key.ID, Provider: "openai", Version: old.Version,
	}, sealer.NewSecret([]byte(key.secret)))
	require.NoError(t, err)
	stored, err := s.store.Rewrap(t.Context(), []models.Rewrapping{{
		KeyID: key.ID, Version: old.Version, Old: old.Envelope, New: rewrapped.Bytes, KEKID: rewrapped.KEKID,
	}})
	require.NoError(t, err)
	require.Len(t, stored, 1)
	backend.envelope.Store(&old.Envelope)
	requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
	require.NotContains(t, s.log.String(), "unreadable")
}

func newPostgres(t *testing.T, changes ...func(*testing.T, *options)) *service {
	t.Helper()
	t.Parallel()
	var opts options
	for _, change := range changes {
		change(t, &opts)
	}
	return start(t, "postgres", opts)
}
