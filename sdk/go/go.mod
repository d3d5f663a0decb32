module github.com/tetrateio/agentrouter-go

// Not 1.26.0, which is newer than the 1.26 that programs write: theirs would need go mod tidy first.
go 1.26
