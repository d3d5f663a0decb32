// Package aikeysv1 holds the types of the AI Keys API. types.gen.go is generated from the OpenAPI document; the other files
// keep fields that this version does not know, and print values. It imports only the standard library.
//
// Enumerations are strings: a value that this version does not know is kept, and its Valid returns false.
package aikeysv1

import "encoding/json"

// Unknown holds the fields of a response that its type lacks, by name. The API grows, and a client that is older than the
// service can still read what is new. It is nil if there are none.
type Unknown map[string]json.RawMessage
