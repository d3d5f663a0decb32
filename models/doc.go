// Package models keeps what the service knows: projects and their members and policies, keys with their sealed
// envelopes, API keys of ours, idempotency records and the audit trail, on Postgres or on SQLite with the same behaviour.
//
// A [Store] reads; [Store.Transact] and the few methods that are one hand-written statement write. What a method does on
// somebody's behalf takes a [Caller]. [Store.GetKey], [Store.ListKeys], [Store.RegisterKey], [Store.Role] and [Tx.Role]
// check the caller's session and membership in the statement or transaction that they guard; the other reads only narrow
// down to what that caller may see, for one whose role was asked for before. Envelopes are opaque bytes: nothing here can
// open one. Times are microseconds since the Unix epoch, zero for none.
//
// It imports nothing of ours.
package models
