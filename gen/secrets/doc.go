// Package secrets is the secrets API, spec/secrets.yaml, in Go: its types, the server's interface and routes, a client, and the embedded
// document. "make generate" writes every file but this one; overlay.yaml gives secrets a type that can't be
// printed, and leaves out what no handler answers with.
// It may import internal/secret.
package secrets

//go:generate go tool oapi-codegen -config types.cfg.yaml ../../spec/secrets.yaml
//go:generate go tool oapi-codegen -config server.cfg.yaml ../../spec/secrets.yaml
//go:generate go tool oapi-codegen -config client.cfg.yaml ../../spec/secrets.yaml
//go:generate go tool oapi-codegen -config document.cfg.yaml ../../spec/secrets.yaml
