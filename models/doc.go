// Package models stores the service's data: projects with their members and policies, provider keys with their sealed
// envelopes, our API keys, data planes, and the audit trail. It behaves the same on PostgreSQL and on SQLite.
//
// A [Store] has a method for each operation; [Store.Transact] groups writes. The packages models/postgres and
// models/sqlite each implement an [Engine], which has the operations that differ between the two databases;
// models/database opens the right Engine. Rows are GORM models. Only hot paths have hand-written SQL, with a comment
// that says why.
//
// A method that acts for a user takes a [Caller]. [Store.GetKey], [Store.ListKeys], [Store.RegisterKey], [Store.Fetch],
// [Store.Role] and [Tx.Role] check the caller's session and membership, in the same statement or transaction as their
// work. Other reads select only what the caller may see, but do not check the caller's role: check the role before you
// call them. Envelopes are opaque bytes, which this package cannot open. Times are microseconds since the Unix epoch;
// zero means never.
//
// From this module, package models imports only internal/position and models/migrations.
package models
