package models_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// On Postgres look-ups of many callers share a round trip; this is about what they must not share.

func TestParallelLookUpsGetTheirOwnAnswers(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const n = 64
		keys := make([]models.Key, n)
		for i := range keys {
			keys[i] = f.register([]models.Registration{f.shared(olga), f.own(mia), f.own(moe)}[i%3])
		}
		type answer struct {
			key models.Key
			err error
		}
		for range 5 {
			for i, a := range together(n, func(i int) (a answer) {
				a.key, a.err = f.GetKey(t.Context(), []models.Caller{mia, mia, mia, stranger}[i%4], keys[i].ID, now())
				return a
			}) {
				switch {
				case i%4 == 3:
					require.ErrorIs(t, a.err, models.ErrNotMember)
				case i%3 == 2:
					require.ErrorIs(t, a.err, models.ErrNotFound, "moe's own")
				default:
					require.NoError(t, a.err)
					require.Equal(t, keys[i].ID, a.key.ID)
				}
			}
		}
	})
}

// Postgres refuses a zero byte in text, and one caller may send it.
func TestALookUpThatFailsFailsNoNeighbour(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		for range 10 {
			for i, err := range together(64, func(i int) error {
				id := key.ID
				if i%3 == 0 {
					id = "byok_\x00"
				}
				_, err := f.GetKey(t.Context(), mia, id, now())
				return err
			}) {
				if i%3 == 0 {
					require.Error(t, err)
				} else {
					require.NoError(t, err)
				}
			}
		}
	})
}

func TestACallerWhoLeavesTakesNoNeighboursAnswerAlong(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		key := f.register(f.shared(olga))
		for range 10 {
			for i, err := range together(64, func(i int) error {
				ctx := t.Context()
				if i%3 == 0 {
					brief, cancel := context.WithTimeout(ctx, time.Duration(i)*10*time.Microsecond)
					defer cancel()
					ctx = brief
				}
				_, err := f.GetKey(ctx, mia, key.ID, now())
				return err
			}) {
				if i%3 != 0 {
					require.NoError(t, err)
				} else if err != nil {
					require.ErrorIs(t, err, models.ErrUnavailable)
				}
			}
		}
	})
}

// Most databases sort text as some language does; pages and look-ups must not notice.
func TestTextSortsByItsBytesInADatabaseThatSortsEnglish(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		if e == modelstest.EnginePostgres {
			url = englishDatabase(t)
		}
		store := modelstest.OpenStore(t, url, models.Options{})
		_, err := store.Migrate(t.Context())
		require.NoError(t, err)
		f := newFixture(t, store)
		for _, user := range []string{"Zoe", "_sys", "a.b", "a-b", "ab"} {
			require.NoError(t, f.setMember(user, models.RoleMember))
		}
		users, _ := f.roles()
		require.Equal(t, []string{"Zoe", "_sys", "a-b", "a.b", "ab", "mia", "moe", "olga"}, users)
		first, second := f.register(f.shared(olga)), f.register(f.shared(olga))
		require.Equal(t, []string{second.ID, first.ID}, ids(f.list(mia, models.KeyFilter{})))
		require.Equal(t, []string{first.ID}, ids(f.list(mia, models.KeyFilter{Before: second.ID})))
	})
}

// englishDatabase returns the URL of an empty database whose default collation is English.
func englishDatabase(t *testing.T) string {
	t.Helper()
	plain := modelstest.Postgres(t)
	admin := modelstest.OpenStore(t, modelstest.EnginePostgres.URL(t), models.Options{Timeout: time.Minute})
	at := strings.LastIndex(plain, "/") + 1
	name, settings, _ := strings.Cut(plain[at:], "?")
	require.NoError(t, models.Exec(t.Context(), admin, "DROP DATABASE "+name))
	require.NoError(t, models.Exec(t.Context(), admin, "CREATE DATABASE "+name+
		" TEMPLATE template0 STRATEGY file_copy LOCALE_PROVIDER icu ICU_LOCALE 'en'"))
	return plain[:at] + name + "?" + settings
}
