package problem

// Row is a row of the table.
type Row struct {
	Sentinel                  error
	Status                    int
	Code, Slug, Title, Detail string
}

// Table returns the table.
func Table() []Row {
	var rows []Row
	for _, r := range table {
		rows = append(rows, Row{r.sentinel, r.status, r.code, r.slug, r.title, r.detail})
	}
	return rows
}
