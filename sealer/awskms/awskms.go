// Package awskms is the sealer backend whose key-encryption key (KEK) is a symmetric key of AWS KMS. The key never
// leaves AWS KMS.
//
// The id of the KEK is "awskms:" and the key's ARN. An alias is resolved once, at the first call: a process keeps using
// the key that the alias named at that time. When AWS KMS rotates a key, the new key material has the same ARN, and
// only AWS knows which key material a call uses. Each replica of a multi-Region key opens what another has sealed.
//
// Each call has the binding as its encryption context, which CloudTrail records and policies can test.
//
// The package imports package sealer, sealer/kms and internal/netaddr, and no other package of ours.
package awskms

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	service "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

const (
	idPrefix = Scheme + ":"
	// listTTL is long, because AWS counts each call and records it, and the KEK never changes.
	listTTL = time.Minute
	// attempts is how often a call is sent at most. It is repeated if it was throttled or not answered.
	attempts = 2
	// retryWait is the longest pause before the second attempt. AWS's default is up to 2 s, but 2 s is also the default
	// timeout of the whole call.
	retryWait = 100 * time.Millisecond
	// checksumLen is the length of a blob's checksum in bytes.
	checksumLen = 4
)

// Open returns a Sealer for the key of a URL that ParseURL accepts. It reads AWS's configuration files, and does not connect.
func Open(ctx context.Context, text string, options kms.Options) (*kms.Sealer, error) {
	cfg, err := ParseURL(text)
	if err != nil {
		return nil, fmt.Errorf("awskms: %w", err)
	}
	loaded, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(cfg.Region), config.WithSharedConfigProfile(cfg.Profile), config.WithRetryer(newRetryer))
	if err != nil {
		return nil, fmt.Errorf("awskms: %w", err)
	}
	loaded.Credentials = credentials{loaded.Credentials}
	key := &symmetricKey{cfg: cfg, client: service.NewFromConfig(loaded, func(o *service.Options) {
		if cfg.Endpoint != "" {
			o.BaseEndpoint = &cfg.Endpoint
		}
	})}
	if base := key.client.Options().BaseEndpoint; base != nil { // AWS_ENDPOINT_URL and the configuration files may name one, too
		if err := checkEndpoint(*base); err != nil {
			return nil, fmt.Errorf("awskms: AWS's configuration %w", err)
		}
	}
	options.ListTTL = listTTL
	return kms.New(key, options), nil
}

func newRetryer() aws.Retryer {
	return retry.AddWithMaxBackoffDelay(retry.AddWithMaxAttempts(retry.NewStandard(), attempts), retryWait)
}

// credentials reports missing credentials as a refusal. AWS's client reports them like a failed call.
type credentials struct{ aws.CredentialsProvider }

// Retrieve implements aws.CredentialsProvider.
func (c credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := c.CredentialsProvider.Retrieve(ctx)
	var answered smithy.APIError
	if err == nil || ctx.Err() != nil || errors.As(err, &answered) {
		return found, err
	}
	return found, kms.Refuse("AWS's default chain finds no credentials: %s", err)
}

// symmetricKey implements kms.Key.
type symmetricKey struct {
	cfg    Config
	client *service.Client
	arn    atomic.Pointer[string] // of the key that the alias or id names; nil before the first call
}

// Owns implements kms.Key. Before an alias or id is resolved, it returns true for any ARN.
func (k *symmetricKey) Owns(kekID string) bool {
	arn, isOurs := strings.CutPrefix(kekID, idPrefix)
	switch own := k.arn.Load(); {
	case !isOurs || !strings.HasPrefix(arn, "arn:"):
		return false
	case own != nil:
		return isSameKey(arn, *own)
	case strings.HasPrefix(k.cfg.Key, "arn:") && !strings.Contains(k.cfg.Key, ":alias/"):
		return isSameKey(arn, k.cfg.Key)
	}
	return true // Unwrap resolves the key first, and asks again
}

// isSameKey reports whether two ARNs name one key, or replicas of one multi-Region key.
func isSameKey(a, b string) bool {
	if a == b {
		return true
	}
	first, second := strings.SplitN(a, ":", 6), strings.SplitN(b, ":", 6)
	if len(first) != 6 || len(second) != 6 || !strings.HasPrefix(first[5], "key/mrk-") {
		return false
	}
	first[3], second[3] = "", "" // the region
	return strings.Join(first, ":") == strings.Join(second, ":")
}

// KEKs implements kms.Key. It checks that the key can be used as KEK.
func (k *symmetricKey) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	name := k.cfg.Key
	if own := k.arn.Load(); own != nil {
		name = *own
	}
	answer, err := k.client.DescribeKey(ctx, &service.DescribeKeyInput{KeyId: &name})
	if err != nil {
		return nil, k.classify("DescribeKey", err)
	}
	found := answer.KeyMetadata
	switch {
	case found == nil || found.Arn == nil || !strings.Contains(*found.Arn, ":key/"):
		return nil, fmt.Errorf("%w: a key without an ARN", errGarbled)
	case found.KeyUsage != types.KeyUsageTypeEncryptDecrypt || found.KeySpec != types.KeySpecSymmetricDefault:
		return nil, kms.Refuse("the key %s is of the kind %s for %s, which does not authenticate an encryption context; make a symmetric one for ENCRYPT_DECRYPT",
			*found.Arn, found.KeySpec, found.KeyUsage)
	case found.KeyState != types.KeyStateEnabled:
		return nil, kms.Refuse("the key %s is in the state %s; enable it, or cancel its deletion", *found.Arn, found.KeyState)
	case len(idPrefix+*found.Arn) > 255:
		return nil, kms.Refuse("the ARN %s is too long for an envelope", *found.Arn)
	}
	if own := k.arn.Load(); own != nil && *own != *found.Arn {
		return nil, fmt.Errorf("%w: the metadata of another key", errGarbled)
	}
	k.arn.Store(found.Arn)
	return []sealer.KEK{{ID: idPrefix + *found.Arn, State: sealer.KEKPrimary}}, nil
}

// Wrap implements kms.Key.
func (k *symmetricKey) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	arn, err := k.resolve(ctx, kekID)
	if err != nil {
		return nil, err
	}
	binding, err := encryptionContext(associatedData)
	if err != nil {
		return nil, err
	}
	answer, err := k.client.Encrypt(ctx, &service.EncryptInput{KeyId: &arn, Plaintext: dataKey, EncryptionContext: binding})
	switch err = k.classify("Encrypt", err); {
	case errors.Is(err, sealer.ErrUnknownKEK):
		return nil, kms.Refuse("the key %s is disabled or deleted; enable it, or cancel its deletion", arn)
	case err != nil:
		return nil, err
	case answer.KeyId == nil || *answer.KeyId != arn:
		return nil, fmt.Errorf("%w: a ciphertext of another key", errGarbled)
	}
	return addChecksum(answer.CiphertextBlob), nil
}

// Unwrap implements kms.Key.
func (k *symmetricKey) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	arn, err := k.resolve(ctx, kekID)
	if err != nil {
		return nil, err
	}
	binding, err := encryptionContext(associatedData)
	if err != nil {
		return nil, err
	}
	blob, err := cutChecksum(wrapped)
	if err != nil {
		return nil, err
	}
	answer, err := k.client.Decrypt(ctx, &service.DecryptInput{KeyId: &arn, CiphertextBlob: blob, EncryptionContext: binding})
	if err := k.classify("Decrypt", err); err != nil {
		return nil, err
	}
	if answer.KeyId == nil || *answer.KeyId != arn {
		return nil, fmt.Errorf("%w: a plaintext of another key", errGarbled)
	}
	return answer.Plaintext, nil
}

// addChecksum prepends a CRC-32C to a ciphertext blob, because only AWS knows the blob's format. The checksum detects
// damage without a call to AWS. AWS's answer could hide the damage: a blob names its key, and for a damaged blob that
// names somebody else's key, AWS would answer that the caller may not use the key.
func addChecksum(blob []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(blob)), blob...)
}

func cutChecksum(wrapped []byte) (blob []byte, err error) {
	if len(wrapped) <= checksumLen || binary.BigEndian.Uint32(wrapped) != checksum(wrapped[checksumLen:]) {
		return nil, fmt.Errorf("%w (checksum)", sealer.ErrBinding)
	}
	return wrapped[checksumLen:], nil
}

func checksum(blob []byte) uint32 { return crc32.Checksum(blob, crc32.MakeTable(crc32.Castagnoli)) }

// resolve returns the ARN of the configured key, or ErrUnknownKEK if a KEK id belongs to another key.
func (k *symmetricKey) resolve(ctx context.Context, kekID string) (string, error) {
	if k.arn.Load() == nil {
		if _, err := k.KEKs(ctx); err != nil {
			return "", err
		}
	}
	if !k.Owns(kekID) {
		return "", fmt.Errorf("%w: it is not the configured key", sealer.ErrUnknownKEK)
	}
	return *k.arn.Load(), nil
}

// encryptionContext returns the binding of a data key as names and values. CloudTrail shows them. None of them is
// secret.
func encryptionContext(associatedData []byte) (map[string]string, error) {
	_, binding, err := sealer.ParseDataKeyContext(associatedData)
	if err != nil {
		return nil, err
	}
	values := map[string]string{
		"aikeys:customer": binding.CustomerID, "aikeys:project": binding.ProjectID, "aikeys:key": binding.KeyID,
		"aikeys:provider": binding.Provider, "aikeys:version": strconv.FormatUint(uint64(binding.Version), 10),
	}
	for _, value := range values {
		if !utf8.ValidString(value) { // JSON would make different values equal
			return nil, fmt.Errorf("%w: a part is not UTF-8", sealer.ErrInvalidBinding)
		}
	}
	return values, nil
}
