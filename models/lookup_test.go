package models_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

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
