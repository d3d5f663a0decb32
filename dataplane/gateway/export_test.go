package gateway

// Answers returns what the gateway can answer by itself: the texts of each type of problem.
func Answers() map[string][]string {
	answers := map[string][]string{}
	for _, r := range rows() {
		problem := ProblemOf(r.sentinel, "")
		answers[problem.Type] = append(answers[problem.Type], problem.Title, problem.Detail)
	}
	return answers
}

// Advised returns the slugs of the types that there is advice on.
func Advised() (slugs []string) {
	for slug := range advice() {
		slugs = append(slugs, slug)
	}
	return slugs
}
