package spec

import _ "embed"

//go:embed aikeys.yaml
var aikeysYAML []byte

// AikeysYAML returns the public API's document as it stands in the repository.
func AikeysYAML() []byte { return append([]byte(nil), aikeysYAML...) }
