// Package rewrap moves every envelope to the primary key-encryption key (KEK): after another KEK was made primary, or
// when an installation moves to another sealer. The service runs on meanwhile.
//
// There is no table of jobs. Each row names the KEK of its envelope, and that is the state: what is not under the
// primary KEK is to be done. A run can be killed at any moment and another begun, or several at once. Each batch goes
// through four steps:
//
//  1. The sealer re-wraps: the data key alone, or, from one sealer to another, by opening and sealing the secret.
//  2. The new envelopes are verified, before anything is written.
//  3. One short transaction writes those whose row still has the old envelope and version. A row that changed meanwhile is
//     left as it is, and looked at again in the next pass.
//  4. A sample is read back, and must be sound.
//
// The canary goes last: as long as it needs an old KEK, other envelopes may too. What can't be read is listed and never
// written. Revoked keys are re-wrapped like all others, so that the old KEK can be retired.
//
// A sealer that may not open is enough as long as no secret has to move from one sealer to another.
//
// It imports impl/keysetcheck, models and sealer, and of sealer/remote an error.
package rewrap
