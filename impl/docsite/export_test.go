package docsite

// ExplainedTypes returns the slugs of the APIs' problem types that have a text.
func ExplainedTypes() ([]string, error) {
	texts, err := readExplanations()
	var slugs []string
	for slug, text := range texts {
		if text.Meaning != "" && text.Advice != "" && text.Gateway == nil {
			slugs = append(slugs, slug)
		}
	}
	return slugs, err
}
