package awskms

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

// meanings maps AWS's error codes to errors of packages sealer and kms. Any other code counts as an outage.
var meanings = map[string]error{
	"InvalidCiphertextException": sealer.ErrBinding,
	"IncorrectKeyException":      sealer.ErrBinding,

	"NotFoundException":        sealer.ErrUnknownKEK,
	"DisabledException":        sealer.ErrUnknownKEK,
	"KMSInvalidStateException": sealer.ErrUnknownKEK, // pending deletion, or without its material

	"AccessDeniedException":       kms.ErrRefused,
	"InvalidKeyUsageException":    kms.ErrRefused,
	"ValidationException":         kms.ErrRefused,
	"UnrecognizedClientException": kms.ErrRefused, // credentials that AWS does not know
	"InvalidSignatureException":   kms.ErrRefused, // or the clock is wrong
	"ExpiredTokenException":       kms.ErrRefused,
	"IncompleteSignature":         kms.ErrRefused,
	"MissingAuthenticationToken":  kms.ErrRefused,
}

// classify turns the error of a call into an error of package sealer or kms. If AWS did not answer, the returned error
// quotes the cause. It never quotes a text of AWS.
func (k *symmetricKey) classify(operation string, err error) error {
	var answered smithy.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kms.ErrRefused):
		return err
	case !errors.As(err, &answered):
		return fmt.Errorf("%w: %s: %w", sealer.ErrUnavailable, operation, err)
	}
	code := answered.ErrorCode()
	switch meaning := meanings[code]; {
	case meaning == nil:
		return fmt.Errorf("%w: %s: %s", sealer.ErrUnavailable, operation, code)
	case errors.Is(meaning, kms.ErrRefused):
		return kms.Refuse("%s: %s; the credentials must be valid, and be allowed kms:%s on the key %s", operation, code, operation, k.cfg.Key)
	case operation == "DescribeKey":
		return kms.Refuse("%s: %s; there is no key %s in %s for these credentials", operation, code, k.cfg.Key, k.cfg.Region)
	default:
		return fmt.Errorf("%w (%s)", meaning, code)
	}
}

// errGarbled says that an answer is not valid. The error that wraps it says why, and does not quote the answer.
var errGarbled = fmt.Errorf("%w: not a valid answer of AWS KMS", sealer.ErrUnavailable)
