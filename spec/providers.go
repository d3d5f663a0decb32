package spec

import _ "embed"

//go:embed providers.yaml
var providersYAML []byte

// ProvidersYAML returns the provider catalogue as it stands in the repository.
func ProvidersYAML() []byte { return append([]byte(nil), providersYAML...) }
