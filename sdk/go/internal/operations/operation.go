// Package operations describes the API's operations: methods, paths and parameters. operations.gen.go is generated from the
// OpenAPI document. It imports nothing.
package operations

// Operation is one operation of the API.
type Operation struct {
	ID     string   // its operationId
	Method string   // GET, POST, …
	Path   string   // with the names of path parameters in braces
	Query  []string // the query parameters that it takes
	Header []string // the header parameters that it takes
}
