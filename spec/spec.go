// Package spec holds the OpenAPI documents and the catalogue of providers. The documents are not compiled in: gen and
// impl/docsite are generated from them. This package imports no other package of this module.
package spec

import (
	_ "embed"
	"slices"
)

//go:embed providers.yaml
var providersYAML []byte

// ProvidersYAML returns the catalogue of providers as it stands in the repository.
func ProvidersYAML() []byte { return slices.Clone(providersYAML) }
