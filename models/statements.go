package models

// Statements returns the hand-written statements of the hot paths by what they do, so that a benchmark measures and a plan
// explains what the service runs on Postgres: get, list, insert-key and insert-event, with $N parameters.
func Statements() map[string]string {
	return map[string]string{
		"get":          getKeySQL,
		"list":         listKeysSQL,
		"insert-key":   insertKey + `VALUES (` + params(1, 12) + `)`,
		"insert-event": insertEvent + `VALUES (` + postgresTx + `, ` + params(1, 17) + `)`,
	}
}
