// Package aikeysv1 holds the types of the AI Keys API. types.gen.go is generated from the OpenAPI document. This file
// defines the type for fields that this version does not know, and formats values as text. It imports only the standard
// library.
//
// Enumerations are strings: a value that this version does not know is kept, and its Valid returns false.
package aikeysv1

import "encoding/json"

// Unknown holds the fields of a response that its type lacks, by name. It is nil if there are none. The API grows: with
// Unknown, a client that is older than the service can read new fields.
type Unknown map[string]json.RawMessage

// text returns a value as JSON, so that its optional fields show their values and not their addresses. No type holds a secret.
func text(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		return "{}" // a time that JSON can't hold, set by the caller
	}
	return string(encoded)
}
