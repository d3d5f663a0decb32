// Package migrations holds the versioned changes of the schema, a folder for each database.
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

// SystemEvents is the version of the migration that makes the table system_events.
const SystemEvents = 11

//go:embed service_user.sql
var serviceUser string

// ServiceUser returns the SQL that gives a user of PostgreSQL the rights that the service needs on a schema with all migrations.
func ServiceUser(schema, user string) string {
	return strings.NewReplacer("{schema}", quote(schema), "{user}", quote(user)).Replace(serviceUser)
}

// quote returns a name as SQL takes any name.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
