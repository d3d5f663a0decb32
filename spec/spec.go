// Package spec holds the OpenAPI documents, one for each audience, and the provider catalogue. They come first: servers,
// clients and pages are generated from them. It imports nothing of ours.
package spec

import _ "embed"

//go:embed aikeys.yaml
var aikeysYAML []byte

// AIKeysYAML returns the public API's document as it stands in the repository.
func AIKeysYAML() []byte { return append([]byte(nil), aikeysYAML...) }
