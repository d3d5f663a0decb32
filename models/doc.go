// Package models is what the service stores: projects with their members and policies, provider keys with their sealed
// envelopes, API keys of ours, data planes, and the audit trail. The same behaviour is there on PostgreSQL and on SQLite.
//
// A [Store] has a method for each operation; [Store.Transact] groups writes. What the two databases do differently is in
// models/postgres and models/sqlite, each an [Engine]; models/database opens the right one. Rows are GORM models. Hand-written
// SQL is only on hot paths, and says why.
//
// What a method does for a user takes a [Caller]. [Store.GetKey], [Store.ListKeys], [Store.RegisterKey], [Store.Fetch],
// [Store.Role] and [Tx.Role] check the caller's session and membership in the statement or transaction that they guard. The
// other reads only select what the caller may see; their callers ask for the role first. Envelopes are opaque bytes, which
// nothing here can open. Times are microseconds since the Unix epoch, zero for never.
//
// It imports nothing of ours but internal/position and models/migrations.
package models
