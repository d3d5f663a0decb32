package awskms

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

// meanings are the codes of errors. A test produces each. What is not here is an outage.
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
	"InvalidSignatureException":   kms.ErrRefused, // or a clock that is wrong
	"ExpiredTokenException":       kms.ErrRefused,
	"IncompleteSignature":         kms.ErrRefused,
	"MissingAuthenticationToken":  kms.ErrRefused,
}

// classify turns the error of a call into one of ours. Texts of AWS are not quoted, except of a failure without an answer.
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
		return refuse("%s: %s; the credentials must be valid, and be allowed kms:%s on the key %s", operation, code, operation, k.cfg.Key)
	case operation == "DescribeKey":
		return refuse("%s: %s; there is no key %s in %s for these credentials", operation, code, k.cfg.Key, k.cfg.Region)
	default:
		return fmt.Errorf("%w (%s)", meaning, code)
	}
}

// refuse returns a kms.ErrRefused that says what is wrong and what to do.
func refuse(format string, arguments ...any) error {
	return fmt.Errorf("%w: %s", kms.ErrRefused, fmt.Sprintf(format, arguments...))
}

// garbled returns an error that says what is wrong with an answer and quotes none of it.
func garbled(what string) error {
	return fmt.Errorf("%w: the answer is not one of AWS KMS: %s", sealer.ErrUnavailable, what)
}
