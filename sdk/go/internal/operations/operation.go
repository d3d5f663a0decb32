// Package operations is the contract's operations as data: methods, paths and the parameters that each one takes.
// operations.gen.go is generated from the OpenAPI document. It imports nothing.
package operations

// Operation is one operation of the contract.
type Operation struct {
	ID     string   // its operationId
	Method string   // GET, POST, …
	Path   string   // with the names of path parameters in braces
	Query  []string // the query parameters that it takes
	Header []string // the header parameters that it takes
}
