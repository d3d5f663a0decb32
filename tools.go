// Package aikeys is the root of AgentRouter AI Keys. It holds no code, only the map of the folders:
//
//	spec       the OpenAPI documents, from which much of the rest is generated
//	gen        generated types, servers and clients, one package a document
//	models     rows, the store and its migrations, on PostgreSQL and SQLite
//	sealer     sealing and opening secrets, one sub-package a backend
//	impl       the handlers of the three APIs and what they share
//	dataplane  a library for data planes: resolver, cache, revocation stream; the gateway on top of it
//	sdk        clients in Go, Python and TypeScript
//	cmd        the programs: thin mains
//	docs       pages for users, operators and contributors
//
// The server side (impl, models, sealer) and the client side (dataplane, sdk) meet over HTTP alone. layout_test.go says
// who may import whom, and enforces it.
//
// The code generator, the linters and the check for breaking changes are pinned in tools/go.mod, a module of its own
// that keeps their dependencies out of ours. make generate builds the generator from there and runs it.
package aikeys

//go:generate make generate
