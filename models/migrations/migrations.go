// Package migrations holds the versioned changes of the schema, a folder for each database.
package migrations

import (
	"embed"
	"io/fs"
)

//go:embed postgres sqlite
var files embed.FS

// Of returns the migrations of a database: "postgres" or "sqlite".
func Of(database string) (fs.FS, error) { return fs.Sub(files, database) }
