// Package docs embeds the guides, which aikeysd shows at /docs/guides. It imports nothing of ours.
package docs

import "embed"

// Guides are the Markdown pages of this folder and the images that they show.
//
//go:embed *.md *.svg console/*.png
var Guides embed.FS
