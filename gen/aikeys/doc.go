// Package aikeys is the public API, spec/aikeys.yaml, in Go: its types, the server's interface and routes, a client, and the embedded
// document. "make generate" writes every file but this one; overlay.yaml gives secrets a type that
// can't be printed and the members of answers their order, and leaves out what no handler answers with.
// It may import internal/secret.
package aikeys

//go:generate go tool oapi-codegen -config types.cfg.yaml ../../spec/aikeys.yaml
//go:generate go tool oapi-codegen -config server.cfg.yaml ../../spec/aikeys.yaml
//go:generate go tool oapi-codegen -config client.cfg.yaml ../../spec/aikeys.yaml
//go:generate go tool oapi-codegen -config document.cfg.yaml ../../spec/aikeys.yaml
