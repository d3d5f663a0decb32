package docsite

// Explained returns the types of problems that have a text.
func Explained() ([]string, error) {
	texts, err := explanations()
	var slugs []string
	for slug, text := range texts {
		if text.Meaning != "" && text.Advice != "" {
			slugs = append(slugs, slug)
		}
	}
	return slugs, err
}
