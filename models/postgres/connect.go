package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/models"
)

var (
	errBadURL    = errors.New("not a valid postgres:// URL; special characters of a password are escaped as in %2F")
	errPlaintext = errors.New("would be reached without TLS beyond this machine; add sslmode=verify-full, or sslmode=require")
)

// parseURL returns the configuration for a URL. Its errors quote no part of the URL, since any may be part of a password.
func parseURL(text string, plaintext bool) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(text)
	if err != nil || hasUnescaped(text) {
		return nil, errBadURL
	}
	if err := checkFiles(text); err != nil {
		return nil, err
	}
	if !plaintext {
		if err := requireTLS(&cfg.ConnConfig.Config); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// checkFiles returns secretfile.ErrInsecure if other users can access the password file or the private key's file. The
// URL or libpq's environment variables name these files. libpq makes the same check. text is a URL that pgx has
// accepted.
func checkFiles(text string) error {
	_, query, _ := strings.Cut(text, "?")
	settings, err := url.ParseQuery(query)
	if err != nil {
		return errBadURL
	}
	for _, setting := range [...]struct{ name, variable string }{{"passfile", "PGPASSFILE"}, {"sslkey", "PGSSLKEY"}} {
		file := cmp.Or(settings.Get(setting.name), os.Getenv(setting.variable))
		info, err := os.Stat(file)                  //nolint:gosec // G703: the operator names the file
		if err != nil || !info.Mode().IsRegular() { // such as /dev/null; the driver reports a missing file
			continue
		}
		if err := secretfile.Check(file); err != nil {
			return fmt.Errorf("%s: %w", setting.name, err)
		}
	}
	return nil
}

// hasUnescaped reports whether a URL has an unescaped "@" or "/" in its password. A parser would take the rest of the
// password for the host, the port or the database's name, and errors would show it.
func hasUnescaped(text string) bool {
	_, rest, _ := strings.Cut(text, "://")
	user, server, found := strings.Cut(rest, "@")
	return found && (strings.Contains(user, "/") || strings.Contains(server, "@"))
}

// requireTLS removes connection attempts without TLS. sslmode=prefer, the default, makes such attempts if TLS fails.
// requireTLS keeps attempts over a unix socket or to a loopback address. It returns errPlaintext if the first attempt
// at any other host would be without TLS.
func requireTLS(cfg *pgconn.Config) error {
	isSafe := func(host string, hasTLS bool) bool {
		return hasTLS || strings.HasPrefix(host, "/") || netaddr.IsLoopback(host)
	}
	if !isSafe(cfg.Host, cfg.TLSConfig != nil) {
		return fmt.Errorf("%s %w", cfg.Host, errPlaintext)
	}
	hosts := map[string]bool{cfg.Host: true}
	var kept []*pgconn.FallbackConfig
	for _, f := range cfg.Fallbacks {
		safe := isSafe(f.Host, f.TLSConfig != nil)
		if !safe && !hosts[f.Host] {
			return fmt.Errorf("%s %w", f.Host, errPlaintext)
		}
		hosts[f.Host] = true
		if safe {
			kept = append(kept, f)
		}
	}
	cfg.Fallbacks = kept
	return nil
}

// Name returns a URL for people: servers and database, without user and password. It is empty for a URL that Open refuses.
func Name(url string) string {
	cfg, err := parseURL(url, true)
	if err != nil {
		return ""
	}
	var servers []string
	add := func(host string, port uint16) {
		server := net.JoinHostPort(host, strconv.Itoa(int(port)))
		if len(servers) == 0 || servers[len(servers)-1] != server {
			servers = append(servers, server)
		}
	}
	add(cfg.ConnConfig.Host, cfg.ConnConfig.Port)
	for _, f := range cfg.ConnConfig.Fallbacks {
		add(f.Host, f.Port)
	}
	return "postgres://" + strings.Join(servers, ",") + "/" + cfg.ConnConfig.Database
}

// SQLSTATEs of a server that takes no writes. readOnlyTransaction is for a write. notOnStandby is for a function that
// does not work on a standby, such as the function that timeline calls.
// https://www.postgresql.org/docs/15/errcodes-appendix.html
const (
	readOnlyTransaction = "25006"
	notOnStandby        = "55000"
)

// limits returns SET statements for timeouts. With these, the server ends the transactions of lost clients, and
// statements whose result this process no longer waits for.
func limits(timeout time.Duration) string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	return "; SET statement_timeout = " + ms(timeout) + "; SET idle_in_transaction_session_timeout = " + ms(timeout) +
		"; SET lock_timeout = " + ms(timeout/2)
}

// connectToWriter makes each new connection fail if the server takes no writes. The data of such a server may be stale,
// for example on an old primary after a failover. connectToWriter also runs the SET statements in set on each new
// connection. They are not start-up parameters, because poolers refuse such parameters.
func connectToWriter(cfg *pgx.ConnConfig, set string) {
	cfg.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		results, err := conn.Exec(ctx, "SHOW transaction_read_only"+set).ReadAll()
		switch {
		case err != nil:
			return err
		case string(results[0].Rows[0][0]) != "off":
			return models.ErrReadOnly
		}
		return nil
	}
}

// dropReadOnly closes all connections when a server says that it takes no writes, because the other connections may
// also lead to this server, from when it was the primary. Connections in use are closed when they are released.
func (e *engine) dropReadOnly(conn *pgconn.PgConn, refused *pgconn.PgError) bool {
	if refused.Code == readOnlyTransaction || refused.Code == notOnStandby {
		e.dropConnections()
		return false
	}
	return !strings.EqualFold(refused.Severity, "FATAL")
}

func (e *engine) dropConnections() {
	for _, p := range []*pool{e.requests, e.reserved, e.background} {
		if p != nil {
			p.Reset()
		}
	}
}

// CheckCreate implements models.Engine.
func (e *engine) CheckCreate(ctx context.Context) error {
	var (
		user, schema, db string
		may              bool
	)
	err := e.schema.QueryRowContext(ctx, "SELECT current_user, COALESCE(current_schema(), ''), current_database(), "+
		"COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false)").Scan(&user, &schema, &db, &may)
	if err != nil || may {
		return err
	}
	if schema == "" {
		return fmt.Errorf("database user %q sees no schema: check search_path, and GRANT USAGE", user)
	}
	return fmt.Errorf("database user %q may create no tables in schema %q, which PostgreSQL allows only the database's owner since version 15: "+
		"ALTER DATABASE %q OWNER TO %q, or GRANT CREATE ON SCHEMA %q TO %q", user, schema, db, user, schema, user)
}

// CheckNotifications implements models.Engine. A pooler that hands out a connection for each transaction drops
// notifications.
func (e *engine) CheckNotifications(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, e.listener.Copy())
	if err != nil {
		return err
	}
	defer e.disconnect(ctx, conn)
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		// This notifies repeatedly, because other processes' notifications arrive too, and a server may be slow.
		if err := e.Notify(ctx); err != nil {
			return err
		}
		pause, cancel := context.WithTimeout(ctx, time.Second)
		note, err := conn.WaitForNotification(pause)
		cancel()
		switch {
		case err == nil && note.Payload == e.id:
			return nil
		case ctx.Err() != nil:
			return models.ErrNoNotifications
		case err != nil && pause.Err() == nil:
			return err
		}
	}
}
