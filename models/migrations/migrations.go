// Package migrations has the versioned changes of the schema, in a folder for each database.
package migrations

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed postgres sqlite
var files embed.FS

// Of returns the migrations of a database: "postgres" or "sqlite".
func Of(database string) (fs.FS, error) { return fs.Sub(files, database) }

// SystemEvents is the version of the migration that creates the table system_events.
const SystemEvents = 11

//go:embed service_user.sql
var serviceUser string

// ServiceUser returns the SQL that grants a user of PostgreSQL the rights that the service needs on a fully migrated schema.
func ServiceUser(schema, user string) string {
	return strings.NewReplacer("{schema}", quote(schema), "{user}", quote(user)).Replace(serviceUser)
}

// quote returns a name as a quoted SQL identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
