// Package aikeys is the root of AgentRouter AI Keys. It has no code. The folders are:
//
//	spec       the OpenAPI documents, from which much of the rest is generated, and the catalogue of providers
//	gen        generated types, servers and clients, one package for each document
//	internal   packages that all others may import
//	models     rows, the store and its migrations, on PostgreSQL and SQLite
//	sealer     sealing and opening secrets, one package for each backend
//	impl       the APIs' handlers and what they share
//	dataplane  the library of data planes, and the gateway
//	sdk        the SDKs for Go, Python and TypeScript
//	cmd        the programs
//	docs       pages for users, operators and contributors
//	tools      scripts, and the tools that are not pinned here
//	deploy     what Debian packages are made of, and their test
//
// A test in internal/layout enforces which folder may import which.
//
// The code generator is pinned in go.mod, as the tool
//
//	github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen
//
// "go tool oapi-codegen" builds and runs that version. "make generate", which is "go generate ./...", runs it for every
// document of spec; the go:generate lines are in the packages whose files they write. The programs do not link the generator. The
// linters, the test runner and the check for breaking changes are pinned in tools/go.mod, which keeps their hundreds of
// dependencies out of this module.
package aikeys

// The Go SDK is a module of its own, which "go generate ./..." does not enter.
//go:generate sdk/go/generate.sh
