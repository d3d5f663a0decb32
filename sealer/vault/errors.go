package vault

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/openbao/openbao/api/v2"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

// statusOf returns the HTTP status of an answer that is an error, or 0.
func statusOf(err error) int {
	var answered *api.ResponseError
	if errors.As(err, &answered) {
		return answered.StatusCode
	}
	return 0
}

// badRequests maps the texts of answers with status 400 to errors, because only the text says what is wrong. The first
// match counts. A test gets each text from a real server.
var badRequests = []struct {
	text string
	is   error
}{
	{"version is disallowed by policy", sealer.ErrUnknownKEK},  // too old
	{"version is too new", sealer.ErrUnknownKEK},               // also "invalid ciphertext"
	{"requested version for encryption", sealer.ErrUnknownKEK}, // not a version, or below min_encryption_version
	{"encryption key not found", sealer.ErrUnknownKEK},
	{"message authentication failed", sealer.ErrBinding},
	{"invalid ciphertext", sealer.ErrBinding},
}

// classify turns the error of a call into an error of package sealer or kms. It does not quote the server's text,
// because that text may quote the request.
func (k *transitKey) classify(operation string, err error) error {
	var answered *api.ResponseError
	if !errors.As(err, &answered) {
		return unreached(err)
	}
	capability, path := "update", operation
	if operation == "read" {
		capability, path = "read", "keys"
	}
	switch status := answered.StatusCode; {
	case status == http.StatusForbidden:
		return k.refuse("permission denied; the token must be valid, and its policy have %s on %s/%s/%s", capability, k.cfg.Mount, path, k.cfg.Key)
	case status == http.StatusNotFound:
		return k.refuse("there is no key %s in a transit engine at %s", k.cfg.Key, k.cfg.Mount)
	case status == http.StatusBadRequest:
		text := strings.Join(answered.Errors, "\n")
		for _, known := range badRequests {
			if strings.Contains(text, known.text) {
				return fmt.Errorf("%w (%s)", known.is, known.text)
			}
		}
		return k.refuse("status 400 to %s", operation)
	case status == http.StatusServiceUnavailable && strings.Contains(strings.Join(answered.Errors, "\n"), "is sealed"):
		return fmt.Errorf("%w: the server at %s is sealed; unseal it", sealer.ErrUnavailable, k.cfg.Address)
	default:
		return fmt.Errorf("%w: the server at %s answered %d", sealer.ErrUnavailable, k.cfg.Address, status)
	}
}

// refuse is kms.Refuse with the server's address.
func (k *transitKey) refuse(format string, arguments ...any) error {
	return kms.Refuse("%s: %s", k.cfg.Address, fmt.Sprintf(format, arguments...))
}

// unreached returns the error of a request without an answer.
func unreached(err error) error {
	if status := statusOf(err); status != 0 {
		return fmt.Errorf("%w: the server answered %d", sealer.ErrUnavailable, status)
	}
	return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
}

// errGarbled says that the server's answer is not valid. The error that wraps it says why, and does not quote the
// answer.
var errGarbled = fmt.Errorf("%w: not a valid answer of a transit engine", sealer.ErrUnavailable)
