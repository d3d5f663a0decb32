package problem

import "slices"

// Type is one type of problem, with everything that the table says of it.
type Type struct {
	// Slug is the last segment of the type's URL, /problems/<slug>.
	Slug   string
	Title  string
	Status int
	Code   string
	// Details are the texts that come with it; which one, depends on the cause.
	Details []string
}

// Types returns the types of problems by status, each one once.
func Types() []Type {
	var types []Type
	for _, r := range table {
		at := slices.IndexFunc(types, func(t Type) bool { return t.Slug == r.slug })
		if at < 0 {
			types = append(types, Type{Slug: r.slug, Title: r.title, Status: r.status, Code: r.code})
			at = len(types) - 1
		}
		types[at].Details = append(types[at].Details, r.detail)
	}
	slices.SortStableFunc(types, func(a, b Type) int { return a.Status - b.Status })
	return types
}

// Example returns the document that a caller gets, with the type's first detail.
func (t Type) Example(requestID string) Document {
	return row{status: t.Status, code: t.Code, slug: t.Slug, title: t.Title, detail: t.Details[0]}.document(requestID)
}
