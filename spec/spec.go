// Package spec holds the OpenAPI documents, their lint rules, and the provider catalogue. They come first: the server, its
// client and its types are generated from them. It imports nothing of ours.
package spec
