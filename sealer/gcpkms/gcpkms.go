// Package gcpkms is the sealer backend whose key-encryption keys (KEKs) are the versions of a symmetric key of Google
// Cloud KMS. They never leave Google Cloud KMS.
//
// The id of a KEK is "gcpkms:" and the full name of the version. The key's primary version is the primary KEK. Requests
// and answers have checksums (CRC-32C), so bytes that were changed on the way count as an outage and not as a wrong
// envelope.
//
// The package imports package sealer, sealer/kms and internal/netaddr, and no other package of ours.
package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	service "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

const (
	// Scheme is the scheme of a key's URL.
	Scheme   = "gcpkms"
	idPrefix = Scheme + ":"
	// listTTL is long, so that most of a project's quota of reads, 300 a minute, is left to others.
	listTTL = 10 * time.Second
	// maxVersions bounds how many versions of a key are listed.
	maxVersions = 1000
)

// retryOnce configures gRPC to retry a call without an answer once. By default, Google's client would retry until the
// call's deadline, and its error would hide the cause.
const retryOnce = `{"methodConfig": [{"name": [{"service": "google.cloud.kms.v1.KeyManagementService"}], "retryPolicy": {
	"maxAttempts": 2, "initialBackoff": "0.05s", "maxBackoff": "0.05s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// Forms shows the form of a URL, for messages.
const Forms = "gcpkms://projects/<project>/locations/<location>/keyRings/<key ring>/cryptoKeys/<key>"

// Config says where a key is. The credentials are Google's application default credentials.
type Config struct {
	Key      string // projects/…/cryptoKeys/…
	Endpoint string // host:port, if not the public one
	plain    bool   // the endpoint is on this machine, and takes no credentials
}

var keyName = regexp.MustCompile(`^projects/[a-z0-9.:-]{1,64}/locations/[a-z0-9-]{1,32}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)

// ParseURL parses the URL of a key. Its error says what is wrong.
func ParseURL(text string) (Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != Scheme || u.User != nil || u.Fragment != "" || u.RawPath != "" || !keyName.MatchString(u.Host+u.Path) {
		return Config{}, errors.New("must be " + Forms)
	}
	cfg := Config{Key: u.Host + u.Path}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, errors.New("must be " + Forms)
	}
	if err := kms.ReadParameters(query, map[string]*string{"endpoint": &cfg.Endpoint}); err != nil {
		return Config{}, err
	}
	if _, _, err := net.SplitHostPort(cfg.Endpoint); cfg.Endpoint != "" && err != nil {
		return Config{}, errors.New(`has the parameter "endpoint", which must be host:port`)
	}
	cfg.plain = netaddr.Parse(cfg.Endpoint).IsLoopback()
	if n := len(cfg.kekID(999)); n > 255 {
		return Config{}, fmt.Errorf("names a key whose id has %d bytes; at most 255 fit into an envelope", n)
	}
	return cfg, nil
}

func (c *Config) kekID(version int) string {
	return idPrefix + c.Key + "/cryptoKeyVersions/" + strconv.Itoa(version)
}

// Open returns a Sealer for the key of a URL that ParseURL accepts. It finds the credentials, and does not connect to Cloud KMS.
func Open(ctx context.Context, text string, options kms.Options) (*kms.Sealer, error) {
	cfg, err := ParseURL(text)
	if err != nil {
		return nil, fmt.Errorf("gcpkms: %w", err)
	}
	settings := []option.ClientOption{option.WithGRPCDialOption(grpc.WithDefaultServiceConfig(retryOnce))}
	if cfg.Endpoint != "" {
		settings = append(settings, option.WithEndpoint(cfg.Endpoint))
	}
	if cfg.plain {
		settings = append(settings, option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	client, err := service.NewKeyManagementClient(ctx, settings...)
	if err != nil {
		return nil, fmt.Errorf("gcpkms: %w", err)
	}
	client.CallOptions = &service.KeyManagementCallOptions{}
	options.ListTTL = listTTL
	return kms.New(&symmetricKey{cfg: cfg, client: client}, options), nil
}

// symmetricKey implements kms.Key.
type symmetricKey struct {
	cfg    Config
	client *service.KeyManagementClient
}

// Close implements io.Closer. It closes the connections.
func (k *symmetricKey) Close() error { return k.client.Close() }

// Owns implements kms.Key.
func (k *symmetricKey) Owns(kekID string) bool {
	version, err := strconv.Atoi(kekID[strings.LastIndexByte(kekID, '/')+1:])
	return err == nil && version > 0 && k.cfg.kekID(version) == kekID
}

// KEKs implements kms.Key. It checks that the key can be used as KEK.
func (k *symmetricKey) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	key, err := k.client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: k.cfg.Key})
	if err != nil {
		return nil, k.classify("cryptoKeys.get", err)
	}
	primary := key.GetPrimary()
	switch {
	case key.GetPurpose() != kmspb.CryptoKey_ENCRYPT_DECRYPT:
		return nil, kms.Refuse("the key is for %s, which takes no associated data; create one with the purpose ENCRYPT_DECRYPT", key.GetPurpose())
	case primary == nil:
		return nil, kms.Refuse("the key has no primary version; set one")
	case primary.GetState() != kmspb.CryptoKeyVersion_ENABLED:
		return nil, kms.Refuse("the primary version %s is %s; enable it, or make another one primary", primary.GetName(), primary.GetState())
	case !k.Owns(idPrefix + primary.GetName()):
		return nil, fmt.Errorf("%w: a version of another key", errGarbled)
	}
	keks := []sealer.KEK{{ID: idPrefix + primary.GetName(), State: sealer.KEKPrimary}}
	versions := k.client.ListCryptoKeyVersions(ctx, &kmspb.ListCryptoKeyVersionsRequest{Parent: k.cfg.Key, PageSize: maxVersions})
	for range maxVersions {
		version, err := versions.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return nil, k.classify("cryptoKeyVersions.list", err)
		}
		if version.GetName() == primary.GetName() {
			continue
		}
		kek := sealer.KEK{ID: idPrefix + version.GetName(), State: sealer.KEKRetired}
		if version.GetState() == kmspb.CryptoKeyVersion_ENABLED {
			kek.State = sealer.KEKEnabled
		}
		keks = append(keks, kek)
	}
	return keks, nil
}

// Wrap implements kms.Key.
func (k *symmetricKey) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	name := strings.TrimPrefix(kekID, idPrefix)
	answer, err := k.client.Encrypt(ctx, &kmspb.EncryptRequest{
		Name: name, Plaintext: dataKey, PlaintextCrc32C: checksum(dataKey),
		AdditionalAuthenticatedData: associatedData, AdditionalAuthenticatedDataCrc32C: checksum(associatedData),
	})
	if err != nil {
		return nil, k.classify("cryptoKeyVersions.useToEncrypt", err)
	}
	wrapped := answer.GetCiphertext()
	switch {
	case answer.GetName() != name:
		return nil, fmt.Errorf("%w: a ciphertext of another version", errGarbled)
	case !answer.GetVerifiedPlaintextCrc32C(), !answer.GetVerifiedAdditionalAuthenticatedDataCrc32C(), !isIntact(wrapped, answer.GetCiphertextCrc32C()):
		return nil, errChanged
	}
	return wrapped, nil
}

// Unwrap implements kms.Key. Cloud KMS reads the version from the ciphertext. The associated data authenticates the KEK
// id, so decryption fails unless this version is the one that the KEK id names.
func (k *symmetricKey) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	answer, err := k.client.Decrypt(ctx, &kmspb.DecryptRequest{
		Name: k.cfg.Key, Ciphertext: wrapped, CiphertextCrc32C: checksum(wrapped),
		AdditionalAuthenticatedData: associatedData, AdditionalAuthenticatedDataCrc32C: checksum(associatedData),
	})
	if status.Code(err) == codes.InvalidArgument {
		return nil, k.explainRefusal(ctx, kekID)
	}
	if err != nil {
		return nil, k.classify("cryptoKeyVersions.useToDecrypt", err)
	}
	if dataKey := answer.GetPlaintext(); isIntact(dataKey, answer.GetPlaintextCrc32C()) {
		return dataKey, nil
	}
	return nil, errChanged
}

// explainRefusal asks Cloud KMS for the state of the version that an envelope names, because Decrypt gives the same
// answer for several causes. It returns sealer.ErrUnknownKEK if the version does not exist or is disabled, and
// otherwise sealer.ErrBinding.
func (k *symmetricKey) explainRefusal(ctx context.Context, kekID string) error {
	version, err := k.client.GetCryptoKeyVersion(ctx, &kmspb.GetCryptoKeyVersionRequest{Name: strings.TrimPrefix(kekID, idPrefix)})
	switch {
	case status.Code(err) == codes.NotFound:
		return fmt.Errorf("%w: there is no such version", sealer.ErrUnknownKEK)
	case err != nil:
		return k.classify("cryptoKeyVersions.get", err)
	case version.GetState() != kmspb.CryptoKeyVersion_ENABLED:
		return fmt.Errorf("%w: the version is %s", sealer.ErrUnknownKEK, version.GetState())
	}
	return sealer.ErrBinding
}

// errChanged says that bytes were changed between this process and Cloud KMS, or in Cloud KMS.
var errChanged = fmt.Errorf("%w: a checksum of Google Cloud KMS does not match: bytes were changed on the way", sealer.ErrUnavailable)

func checksum(bytes []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(bytes, crc32.MakeTable(crc32.Castagnoli))))
}

func isIntact(bytes []byte, sum *wrapperspb.Int64Value) bool {
	return sum != nil && sum.GetValue() == checksum(bytes).GetValue()
}

// classify turns the error of a call into an error of package sealer or kms. If Cloud KMS did not answer, the returned
// error quotes the cause. It never quotes a text of Cloud KMS.
func (k *symmetricKey) classify(permission string, err error) error {
	switch code := status.Code(err); code {
	case codes.FailedPrecondition, codes.NotFound:
		if strings.HasSuffix(permission, ".useToEncrypt") || strings.HasSuffix(permission, ".useToDecrypt") {
			return fmt.Errorf("%w (%s)", sealer.ErrUnknownKEK, code)
		}
		return kms.Refuse("%s: there is no key %s", code, k.cfg.Key)
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Unimplemented:
		return kms.Refuse("%s; the credentials must be valid, and have cloudkms.%s on %s", code, permission, k.cfg.Key)
	case codes.Unavailable, codes.Unknown:
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: Google Cloud KMS answered %s", sealer.ErrUnavailable, code)
	}
}

// errGarbled says that an answer is not valid. The error that wraps it says why, and does not quote the answer.
var errGarbled = fmt.Errorf("%w: not a valid answer of Google Cloud KMS", sealer.ErrUnavailable)
