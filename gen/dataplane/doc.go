// Package dataplane is the API of spec/dataplane.yaml in Go: types, the strict server's interface and routes, a client, and
// the document itself. make generate writes all but this file; overlay.yaml names the type of the document's secrets.
// It may import internal/secret.
package dataplane
