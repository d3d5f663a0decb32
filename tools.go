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
// layout_test.go says who may import whom, and enforces it.
//
// The code generator, the linters and the check for breaking changes are pinned in tools/go.mod, a module of its own
// that keeps their dependencies out of ours. make generate builds the generator from there and runs it.
package aikeys

//go:generate make generate
