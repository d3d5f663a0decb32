package dataplane

import (
	"errors"
	"fmt"
)

// The errors of Resolve and Run. Use errors.Is.
var (
	// ErrNoKey: no active key of the provider may serve the caller.
	ErrNoKey = errors.New("no registered key may serve this request")
	// ErrUserKeyRequired: the project's policy requires a key of the user's own, and the user has none.
	ErrUserKeyRequired = errors.New("the project's policy requires a key of the user's own")
	// ErrKeyRevoked: the key that was requested by its id is revoked, or all keys that could serve the caller are. See Refusal.
	ErrKeyRevoked = errors.New("the key is revoked")
	// ErrKeyDisabled and ErrKeyExpired: as ErrKeyRevoked, for keys that are disabled or have expired.
	ErrKeyDisabled = errors.New("the key is disabled")
	ErrKeyExpired  = errors.New("the key has expired")
	// ErrKeyRestricted: the keys that could serve the caller are restricted to other users.
	ErrKeyRestricted = errors.New("the keys are restricted to other users")
	// ErrCredentialRefused: the cloud's token service refuses the key's credential.
	ErrCredentialRefused = errors.New("the cloud refuses the key's credential")
	// ErrNotMember: the user may not use the project.
	ErrNotMember = errors.New("the user is not a member of the project")
	// ErrCallerUnauthenticated: the caller's credential is not valid.
	ErrCallerUnauthenticated = errors.New("the caller's credential is not valid")
	// ErrCustomerNotServed: this data plane's credential does not cover the customer.
	ErrCustomerNotServed = errors.New("this data plane may not serve the customer")
	// ErrInvalid: the request is malformed; the control plane could not answer it.
	ErrInvalid = errors.New("invalid request for a key")
	// ErrUnavailable: the control plane does not answer, and nothing cached may be used.
	ErrUnavailable = errors.New("no key can be fetched from the control plane, and no cached key may serve")
	// ErrDataPlaneUnauthenticated: the control plane refuses the data plane's own credential.
	ErrDataPlaneUnauthenticated = errors.New("the control plane refuses this data plane's credential")
	// ErrUnsupportedAuth: the provider requires signed requests, or a token exchanged for the key; a header is not enough.
	ErrUnsupportedAuth = errors.New("this provider's key can't be sent unchanged in a header")
	// ErrRunning: Run was called while another call of it is running.
	ErrRunning = errors.New("the resolver runs already")
)

var (
	// errSilent: requests have been in flight for a while, and none was answered.
	errSilent = fmt.Errorf("%w: the control plane does not answer", ErrUnavailable)
	// errIssuer: a session token can't be checked. This does not count as a failure of the control plane; otherwise
	// strangers with made-up tokens could mark the control plane as down for every caller.
	errIssuer = fmt.Errorf("%w: the issuer of the caller's token can't be reached", ErrUnavailable)
	// ErrTokenUnavailable means that the token service of a key's cloud gives no token. This does not count as a failure of the
	// control plane.
	ErrTokenUnavailable = fmt.Errorf("%w: the token service of the key's cloud can't be reached", ErrUnavailable)
	// errLate: an answer came too late to be used.
	errLate = fmt.Errorf("%w: the answer came too late", ErrUnavailable)
	// errOutdated: every answer to a fetch was older than an event that had arrived by then.
	errOutdated = fmt.Errorf("%w: each answer was older than a change that had already arrived", ErrUnavailable)
	// errProtocol: a message or an answer breaks the contract. Error texts never repeat what was received.
	errProtocol = errors.New("not as the contract requires")
)

// unreachable is a failure of the control plane rather than of one request: other requests would fail now, too.
type unreachable struct{ cause error }

func (u unreachable) Error() string { return fmt.Sprintf("%v: %v", ErrUnavailable, u.cause) }

// Unwrap leaves the cause out: a deadline of the fetch must not look like a deadline of the caller.
func (unreachable) Unwrap() error { return ErrUnavailable }

// problemAnswer is the status of an answer and the last segment of its problem type.
type problemAnswer struct {
	status  int
	problem string
}

// refusals maps the problems of the control plane to the errors that Resolve returns.
var refusals = map[problemAnswer]error{
	{400, "invalid-argument"}:       ErrInvalid,
	{413, "body-too-large"}:         ErrInvalid,
	{415, "unsupported-media-type"}: ErrInvalid,
	{401, "unauthenticated"}:        ErrDataPlaneUnauthenticated,
	{403, "key-revoked"}:            ErrKeyRevoked,
	{403, "key-disabled"}:           ErrKeyDisabled,
	{403, "key-expired"}:            ErrKeyExpired,
	{403, "key-restricted"}:         ErrKeyRestricted,
	{403, "credential-refused"}:     ErrCredentialRefused,
	{403, "permission-denied"}:      ErrNotMember,
	{403, "customer-not-served"}:    ErrCustomerNotServed,
	{404, "no-key"}:                 ErrNoKey,
	{404, "user-key-required"}:      ErrUserKeyRequired,
	{422, "caller-unauthenticated"}: ErrCallerUnauthenticated,
}

// Refusal is a refusal that the control plane explains.
type Refusal struct {
	Kind error // ErrKeyRevoked, ErrKeyDisabled or ErrKeyExpired
	// Detail is a sentence for the caller alone: which key stopped, when and by whom. No error's text repeats it.
	Detail string
}

// Error returns the text of the kind.
func (r *Refusal) Error() string { return r.Kind.Error() }

// Unwrap returns the kind.
func (r *Refusal) Unwrap() error { return r.Kind }

// isCacheable reports whether a refusal may be cached for NegativeTTL. ErrInvalid is not cached, because a malformed
// request costs no look-up. ErrDataPlaneUnauthenticated is not cached, because a new credential of the data plane must
// work at once.
func isCacheable(refusal error) bool {
	return !errors.Is(refusal, ErrInvalid) && !errors.Is(refusal, ErrDataPlaneUnauthenticated)
}
