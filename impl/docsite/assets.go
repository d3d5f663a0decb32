package docsite

import (
	"embed"
	"fmt"
	"sync"
)

//go:embed assets
var assetFiles embed.FS

//go:embed templates
var templateFiles embed.FS

// asset is a file that pages use.
type asset struct {
	path     string
	resource resource
}

// URL is what pages link to: with the file's version, so that it may be kept for good and a new one is taken at once.
func (a asset) URL() string { return a.path + "?v=" + a.resource.version }

// assetVersionLength is how much of the entity tag is the version: enough to tell releases apart.
const assetVersionLength = 12

// loadAssets returns the assets by the names that templates give them.
func loadAssets() (map[string]asset, error) {
	assets := map[string]asset{}
	for name, contentType := range map[string]string{
		"site.css":       "text/css; charset=utf-8",
		"site.js":        "text/javascript; charset=utf-8",
		"reference.css":  "text/css; charset=utf-8",
		"reference.js":   "text/javascript; charset=utf-8",
		"icon.svg":       "image/svg+xml",
		"scalar.js.gz":   "text/javascript; charset=utf-8",
		"scalar.LICENSE": "text/plain; charset=utf-8",
	} {
		body, err := assetFiles.ReadFile("assets/" + name)
		if err != nil {
			return nil, fmt.Errorf("pages: %w", err)
		}
		a := asset{path: "/docs/assets/" + name, resource: resource{contentType: contentType, content: contentOf(body)}}
		if name == "scalar.js.gz" {
			a.path = "/docs/assets/scalar.js"
			a.resource.zipped = true
			a.resource.plain = sync.OnceValues(func() (content, error) { return unzip(body) })
		}
		a.resource.version = a.resource.content.tag[1 : 1+assetVersionLength]
		assets[name] = a
	}
	return assets, nil
}
