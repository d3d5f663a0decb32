package aikeys_test

import (
	"database/sql"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// plant registers a secret in every way that the API has, and returns it with a text that is stored openly.
func plant(t *testing.T, s *aikeystest.Service) (secret, open string) {
	t.Helper()
	secret, open = s.Secret(), "openly-named"
	with := func(text string) func(*gen.RegisterRequest) {
		return func(b *gen.RegisterRequest) { b.Secret = gensecret.New(text) }
	}
	shared := s.As(owner).Register(t, s.Shared(open, with("sk-"+secret)))
	s.As(member).Register(t, s.Own(open, with("sk-"+secret)))
	s.As(owner).Register(t, s.Shared(open, with(`{"resource":"r","api_key":"`+secret+`"}`), func(b *gen.RegisterRequest) { b.Provider = "azure_openai" }))
	again := s.Shared("again", with("sk-"+secret))
	for range 2 {
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(owner).Token, secret, again).Status)
	}
	again.Name = "other"
	require.Equal(t, http.StatusUnprocessableEntity, retry(t, s, s.As(owner).Token, secret, again).Status)
	require.Equal(t, http.StatusConflict, post(t, s, owner, project+"/aikeys", s.Shared(open, with("sk-"+secret))).Status)
	require.Equal(t, http.StatusForbidden, post(t, s, member, project+"/aikeys", s.Shared(open, with("sk-"+secret))).Status)
	require.Equal(t, http.StatusForbidden, post(t, s, sam, project+"/aikeys", s.Shared(open, with("sk-"+secret))).Status)
	require.Equal(t, http.StatusBadRequest, post(t, s, owner, project+"/aikeys", s.Shared(open, with("sk-ant-"+secret))).Status)
	s.As(owner).RevokeKey(t, shared.ID)
	for _, path := range []string{"/aikeys", "/aikeys/" + shared.ID, "/events", "/resolve?provider=openai"} {
		require.Equal(t, http.StatusOK, get(t, s, owner, project+path).Status)
	}
	require.Empty(t, s.Evidence.Leaks())
	return secret, open
}

// requireUnwritten searches every file below dir for the secret and for tokens, and first for what must be there.
func requireUnwritten(t *testing.T, s *aikeystest.Service, dir, secret, open string) {
	t.Helper()
	seen := false
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen = seen || strings.Contains(string(content), open)
		require.Empty(t, aikeystest.FindIn(content, secret), entry.Name())
		require.Empty(t, aikeystest.FindIn(content, s.As(owner).Token), entry.Name())
		return nil
	}))
	require.True(t, seen, "the search reads what is stored")
}

func TestSealingLeavesNoSecretInSQLite(t *testing.T) {
	dir := t.TempDir()
	store := modelstest.OpenStore(t, "sqlite:"+filepath.Join(dir, "aikeys.db"), models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: store})
	secret, open := plant(t, s)
	t.Run("while it is open", func(t *testing.T) { requireUnwritten(t, s, dir, secret, open) })
	token := s.As(owner).Token // minted before the store closes
	require.NotEmpty(t, token)
	require.NoError(t, store.Close())
	t.Run("once it is closed", func(t *testing.T) { requireUnwritten(t, s, dir, secret, open) })
}

func TestSealingLeavesNoSecretInPostgres(t *testing.T) {
	cluster := modelstest.StartCluster(t, modelstest.WithoutFsync(), modelstest.WithSetting("log_min_duration_statement", "0"),
		modelstest.WithSetting("log_parameter_max_length_on_error", "-1"))
	store := modelstest.OpenStore(t, cluster.URL("postgres"), models.Options{})
	_, err := store.Migrate(t.Context())
	require.NoError(t, err)
	s := aikeystest.Start(t, aikeystest.Options{Store: store})
	secret, open := plant(t, s)
	conn := (&database{url: cluster.URL("postgres")}).open(t)
	t.Run("in no row of any table", func(t *testing.T) {
		dump := dumpPostgres(t, conn)
		require.Contains(t, dump, open)
		require.Empty(t, aikeystest.FindIn([]byte(dump), secret))
		require.Empty(t, aikeystest.FindIn([]byte(dump), s.As(owner).Token))
	})
	t.Run("in no file, its log of all statements and errors included", func(t *testing.T) {
		_, err := conn.ExecContext(t.Context(), "CHECKPOINT")
		require.NoError(t, err)
		data := value[string](t, conn, "SHOW data_directory")
		require.NoError(t, cluster.Stop(modelstest.Fast))
		requireUnwritten(t, s, filepath.Dir(data), secret, open)
	})
}

// dumpPostgres returns all rows of all tables as text.
func dumpPostgres(t *testing.T, db *sql.DB) string {
	t.Helper()
	var dump strings.Builder
	for _, table := range column(t, db, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") {
		for _, row := range column(t, db, fmt.Sprintf("SELECT r::text FROM %q AS r", table)) {
			dump.WriteString(row + "\n")
		}
	}
	return dump.String()
}

func column(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer func() { _ = rows.Close() }()
	var values []string
	for rows.Next() {
		var v string
		require.NoError(t, rows.Scan(&v))
		values = append(values, v)
	}
	require.NoError(t, rows.Err())
	return values
}

// What the log, the metrics and the traces hold is an allow-list; this is it.
func TestObservedFields(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	name := "a-name-that-is-nobody-elses-business"
	reply := post(t, s, owner, project+"/aikeys", s.Shared(name))
	require.Equal(t, http.StatusCreated, reply.Status)
	require.Equal(t, http.StatusForbidden, get(t, s, sam, project+"/aikeys").Status)
	require.Equal(t, http.StatusNotFound, get(t, s, owner, "/"+name).Status)
	t.Run("log", func(t *testing.T) {
		lines := s.Evidence.Lines(reply.Header.Get("X-Request-Id"))
		require.Len(t, lines, 1)
		for member := range lines[0] {
			require.Contains(t, []string{"time", "level", "msg", "request_id", "operation", "status", "took", "source_ip", "customer_id", "user_id", "token_id"}, member)
		}
		require.Equal(t, "registerKey", lines[0]["operation"])
		require.Equal(t, s.As(owner).TokenID, lines[0]["token_id"])
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
