// Package aikeys is the root of AgentRouter AI Keys. It holds no code, only the map of the folders:
//
//	spec    the OpenAPI document, from which much of the rest is generated, and the provider catalogue
//	gen     generated types, server and client, one package a document
//	models  rows, the store and its migrations, on PostgreSQL and SQLite
//	sealer  sealing and opening secrets, one sub-package a backend
//	impl    the handlers, and what they share: sessions, problems, validation, metrics
//	cmd     the programs
//	docs    pages for users, operators and contributors
//
// internal/layout says who may import whom, and enforces it.
//
// The code generator is pinned in go.mod, as the tool
//
//	github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
//
// "go tool oapi-codegen" builds and runs that version. "make generate", which is "go generate ./...", runs it for every
// document of spec; the go:generate lines are in the packages whose files they write. The programs do not link it. The
// linters, the test runner and the check for breaking changes are pinned in tools/go.mod, so that their hundreds of
// dependencies stay out of ours.
package aikeys

// The Go SDK is a module of its own, which "go generate ./..." does not enter.
//go:generate sdk/go/generate.sh
