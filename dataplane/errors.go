package dataplane

import "errors"

// What Resolve returns when it returns no key. Use errors.Is.
var (
	// ErrNoKey: no active key of the provider may serve the caller.
	ErrNoKey = errors.New("no key is registered that may serve this")
	// ErrUserKeyRequired: the project's policy wants a key of the user's own, and they have none.
	ErrUserKeyRequired = errors.New("the project's policy requires a key of the user's own")
	// ErrKeyRevoked: the key that was asked for by its id is revoked.
	ErrKeyRevoked = errors.New("the key is revoked")
	// ErrNotMember: the user may not use the project.
	ErrNotMember = errors.New("the user is no member of the project")
	// ErrCallerUnauthenticated: the caller's credential opens no session.
	ErrCallerUnauthenticated = errors.New("the caller's credential is not valid")
	// ErrCustomerNotServed: this data plane is not for that customer.
	ErrCustomerNotServed = errors.New("this data plane may not serve the customer")
	// ErrInvalid: the request is not one that the control plane could answer.
	ErrInvalid = errors.New("invalid request for a key")
	// ErrUnavailable: the control plane does not answer, and nothing that is cached may be used.
	ErrUnavailable = errors.New("the control plane can't be asked, and nothing may be served")
	// ErrDataPlaneUnauthenticated: the control plane refuses the data plane's own credential.
	ErrDataPlaneUnauthenticated = errors.New("the control plane refuses this data plane's credential")
	// ErrUnsupportedAuth: the provider wants requests signed, or a token got for the key; a header alone won't do.
	ErrUnsupportedAuth = errors.New("this provider's key does not go into a header as it is")
	// ErrRunning: Run was called while another call of it goes on.
	ErrRunning = errors.New("the resolver runs already")
)

// refusal maps a problem of the control plane to what Resolve returns; nil when there is no such answer in the
// contract.
func refusal(status int, problem string) error {
	switch (answer{status, problem}) {
	case answer{400, "invalid-argument"}, answer{413, "body-too-large"}, answer{415, "unsupported-media-type"}:
		return ErrInvalid
	case answer{401, "unauthenticated"}:
		return ErrDataPlaneUnauthenticated
	case answer{403, "key-revoked"}:
		return ErrKeyRevoked
	case answer{403, "permission-denied"}:
		return ErrNotMember
	case answer{403, "customer-not-served"}:
		return ErrCustomerNotServed
	case answer{404, "no-key"}:
		return ErrNoKey
	case answer{404, "user-key-required"}:
		return ErrUserKeyRequired
	case answer{422, "caller-unauthenticated"}:
		return ErrCallerUnauthenticated
	default:
		return nil
	}
}

// answer is a status with the last part of the problem's type.
type answer struct {
	status  int
	problem string
}

// remembered tells refusals that are kept for a while from those that say nothing of the request.
func remembered(err error) bool {
	for _, kept := range []error{
		ErrNoKey, ErrUserKeyRequired, ErrKeyRevoked, ErrNotMember, ErrCallerUnauthenticated, ErrCustomerNotServed,
	} {
		if errors.Is(err, kept) {
			return true
		}
	}
	return false
}
