// Package models stores the service's data: projects with their members and policies, provider keys with their sealed
// envelopes, our API keys, data planes, and the audit trail. It behaves the same on PostgreSQL and on SQLite.
//
// A [Store] has a method for each operation; [Store.Transact] groups writes. The packages models/postgres and
// models/sqlite each implement an [Engine], which does what the two databases do differently; models/database opens the
// right one. Rows are GORM models. Only hot paths have hand-written SQL, with a comment that says why.
//
// A method that acts for a user takes a [Caller]. [Store.GetKey], [Store.ListKeys], [Store.RegisterKey], [Store.Fetch],
// [Store.Role] and [Tx.Role] check the caller's session and membership in the statement or transaction that they guard.
// Other reads only select what the caller may see; check the role before you call them. Envelopes are opaque bytes,
// which nothing here can open. Times are microseconds since the Unix epoch; zero means never.
//
// Of this module, it imports only internal/position and models/migrations.
package models
