package docsite

import (
	"encoding/json"
	"fmt"
	"strings"
)

// found is an entry of the search: the texts that are shown, the path that it links to, and more text to search.
type found struct {
	Kind  string `json:"kind"`
	Title string `json:"title"`
	Hint  string `json:"hint,omitempty"`
	Path  string `json:"path"`
	Text  string `json:"text,omitempty"`
}

// searchIndex returns a JavaScript module with all entries. Operations come first, since the pages show the first of
// equal matches.
func searchIndex(m *material) ([]byte, error) {
	var all []found
	for _, o := range m.API.Operations {
		names := []string{o.ID}
		for _, f := range o.Parameters {
			names = append(names, f.Name)
		}
		if o.Body != nil {
			for _, f := range o.Body.Fields {
				names = append(names, f.Name)
			}
		}
		all = append(all, found{"Operation", o.Summary, o.Method + " " + shortPath(o.Path), "/docs#" + o.ID, strings.Join(names, " ") + " " + o.Description})
	}
	for _, p := range mainPages {
		all = append(all, found{"Page", p.title, "", p.path, p.description})
	}
	for _, s := range m.Shelves {
		for _, g := range s.Guides {
			for _, part := range g.Sections {
				entry := found{"Guide", part.Title, g.Title, g.Path() + "#" + part.ID, part.Text}
				if part.ID == "" {
					entry.Title, entry.Hint, entry.Path = g.Title, "", g.Path()
				}
				all = append(all, entry)
			}
		}
	}
	for _, p := range m.Problems {
		all = append(all, found{"Problem", p.Title, fmt.Sprintf("%d %s", p.Status, p.Code), p.Path(), p.Meaning + " " + p.Advice})
	}
	for _, o := range m.API.Objects {
		var names []string
		for _, f := range o.Fields {
			names = append(names, f.Name)
		}
		all = append(all, found{"Object", o.Name, "", "/docs#object-" + o.Name, strings.Join(names, " ") + " " + o.Description})
	}
	for i := range all {
		all[i].Text = strings.ReplaceAll(strings.Join(strings.Fields(all[i].Text), " "), "`", "")
	}
	body, err := json.Marshal(all)
	return append([]byte("export default "), body...), err
}

// shortPath returns a path without the beginning that most paths have in common.
func shortPath(path string) string {
	return strings.Replace(path, "/v1/customers/{customer_id}/projects/{project_id}", "…", 1)
}
