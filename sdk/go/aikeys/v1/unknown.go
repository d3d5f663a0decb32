// Package aikeysv1 holds the types of the AI Keys contract. types.gen.go is generated from its OpenAPI document; the rest
// is for fields that the contract has gained since, and prints values. It imports the standard library alone.
//
// Enumerations are strings: a value that this version does not know stays as it came, and its Valid is false.
package aikeysv1

import "encoding/json"

// Unknown is what an answer holds beyond the fields of its type, by name: the contract grows, and a client that is older
// than the service can still read what is new. It is nil where there is nothing.
type Unknown map[string]json.RawMessage
