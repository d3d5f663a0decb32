package agentrouter

import "iter"

// iteratorPage is the size of pages where the caller sets none.
const iteratorPage = 100

// pages goes through the items of all pages, from the first. An error is the last thing it yields.
func pages[T any](s service, fetch func(s service) (items []T, next string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		at := s
		if !at.has("page_size") {
			at = at.with([]CallOption{PageSize(iteratorPage)})
		}
		for {
			items, next, err := fetch(at)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			at = at.with([]CallOption{PageToken(next)})
		}
	}
}
