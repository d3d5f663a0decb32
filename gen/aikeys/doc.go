// Package aikeys is the public API of spec/aikeys.yaml in Go: types, the strict server's interface and routes, a client, and
// the document itself. make generate writes it; by hand are this file and secret.go, the type of the document's secrets,
// which overlay.yaml names. It imports nothing of ours.
package aikeys
