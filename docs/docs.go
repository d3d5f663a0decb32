// Package docs embeds the guides, which aikeysd shows at /docs/guides. It imports no other package of this module.
package docs

import "embed"

// Guides are the Markdown pages of this folder, the images that they show, and the samples and the contract that they offer.
//
//go:embed *.md *.svg console/*.png samples agent.openapi.yaml
var Guides embed.FS
