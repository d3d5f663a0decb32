// Package models keeps what the service knows: projects and their members and policies, keys with their sealed
// envelopes, API keys of ours, idempotency records and the audit trail, on Postgres or on SQLite with the same behaviour.
//
// A [Store] reads; [Store.Transact] and the few methods that are one hand-written statement write. What a method does on
// somebody's behalf takes a [Caller] and checks their session and membership in the statement or transaction that it
// guards. Envelopes are opaque bytes: nothing here can open one. Times are microseconds since the Unix epoch, zero for none.
//
// It imports nothing of ours.
package models
