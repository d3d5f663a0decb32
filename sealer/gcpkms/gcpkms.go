// Package gcpkms is the sealer backend whose key-encryption keys (KEKs) are the versions of a symmetric key of Google Cloud KMS. They
// never leave it.
//
// The id of a KEK is "gcpkms:" and the full name of the version. The key's primary version is the primary KEK. Checksums (CRC-32C) go
// with each call, both ways, so that bytes which were changed on the way are an outage and no wrong answer.
//
// The package imports package sealer and sealer/kms, and no other package of ours.
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

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

const (
	scheme   = "gcpkms"
	idPrefix = scheme + ":"
	// listTTL leaves most of a project's quota of reads, 300 a minute, to others.
	listTTL = 10 * time.Second
	// maxVersions bounds how many versions of a key are listed; at most this many envelopes' worth of KEKs matter.
	maxVersions = 1000
)

// repeatOnce is the configuration by which gRPC sends a call once more that was not answered. Google's client would repeat it until its
// time is over, and never say why.
const repeatOnce = `{"methodConfig": [{"name": [{"service": "google.cloud.kms.v1.KeyManagementService"}], "retryPolicy": {
	"maxAttempts": 2, "initialBackoff": "0.05s", "maxBackoff": "0.05s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// Schemes returns what the URL of a key begins with, up to the colon.
func Schemes() []string { return []string{scheme} }

// Forms says what a URL looks like, for messages.
const Forms = "gcpkms://projects/<project>/locations/<location>/keyRings/<key ring>/cryptoKeys/<key>"

// Config says where a key is. The credentials are Google's application default credentials.
type Config struct {
	Key      string // projects/…/cryptoKeys/…
	Endpoint string // host:port, if not the public one
	plain    bool   // the endpoint is on this machine, and takes no credentials
}

var keyName = regexp.MustCompile(`^projects/[a-z0-9.:-]{1,64}/locations/[a-z0-9-]{1,32}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)

// ParseURL reads the URL of a key. Its error says what is wrong.
func ParseURL(text string) (Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != scheme || u.User != nil || u.Fragment != "" || u.RawPath != "" || !keyName.MatchString(u.Host+u.Path) {
		return Config{}, errors.New("must be " + Forms)
	}
	cfg := Config{Key: u.Host + u.Path}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, errors.New("must be " + Forms)
	}
	for name, values := range query {
		host, _, err := net.SplitHostPort(values[0])
		if name != "endpoint" || len(values) != 1 || err != nil {
			return Config{}, fmt.Errorf("has the parameter %q; known is endpoint, with host:port", name)
		}
		address := net.ParseIP(host)
		cfg.Endpoint, cfg.plain = values[0], address != nil && address.IsLoopback()
	}
	if n := len(cfg.kekID(999)); n > 255 {
		return Config{}, fmt.Errorf("names a key whose id has %d bytes; at most 255 fit into an envelope", n)
	}
	return cfg, nil
}

func (c *Config) kekID(version int) string {
	return idPrefix + c.Key + "/cryptoKeyVersions/" + strconv.Itoa(version)
}

// Sealer is a kms.Sealer with a key of Google Cloud KMS.
type Sealer struct {
	*kms.Sealer
	client *service.KeyManagementClient
}

// Open returns a Sealer for the key of a URL, which ParseURL describes. It finds the credentials, and does not connect to Cloud KMS.
func Open(ctx context.Context, text string, options kms.Options) (*Sealer, error) {
	cfg, err := ParseURL(text)
	if err != nil {
		return nil, fmt.Errorf("gcpkms: %w", err)
	}
	settings := []option.ClientOption{option.WithGRPCDialOption(grpc.WithDefaultServiceConfig(repeatOnce))}
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
	return &Sealer{Sealer: kms.New(&symmetricKey{cfg: cfg, client: client}, options), client: client}, nil
}

// Close closes the connections, and drops what is cached.
func (s *Sealer) Close() error { return errors.Join(s.client.Close(), s.Sealer.Close()) }

// symmetricKey implements kms.Key.
type symmetricKey struct {
	cfg    Config
	client *service.KeyManagementClient
}

// Owns implements kms.Key.
func (k *symmetricKey) Owns(kekID string) bool {
	version, err := strconv.Atoi(kekID[strings.LastIndexByte(kekID, '/')+1:])
	return err == nil && version > 0 && k.cfg.kekID(version) == kekID
}

// KEKs implements sealer.KEKLister. It checks that the key can be used as KEK.
func (k *symmetricKey) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	key, err := k.client.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: k.cfg.Key})
	if err != nil {
		return nil, k.classify("cryptoKeys.get", err)
	}
	primary := key.GetPrimary()
	switch {
	case key.GetPurpose() != kmspb.CryptoKey_ENCRYPT_DECRYPT:
		return nil, refuse("the key is for %s, which takes no associated data; create one with the purpose ENCRYPT_DECRYPT", key.GetPurpose())
	case primary == nil:
		return nil, refuse("the key has no primary version; set one")
	case primary.GetState() != kmspb.CryptoKeyVersion_ENABLED:
		return nil, refuse("the primary version %s is %s; enable it, or make another one primary", primary.GetName(), primary.GetState())
	case !k.Owns(idPrefix + primary.GetName()):
		return nil, garbled("a version of another key")
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
		return nil, garbled("a ciphertext of another version")
	case !answer.GetVerifiedPlaintextCrc32C(), !answer.GetVerifiedAdditionalAuthenticatedDataCrc32C(), !isIntact(wrapped, answer.GetCiphertextCrc32C()):
		return nil, errChanged
	}
	return wrapped, nil
}

// Unwrap implements kms.Key. Cloud KMS finds the version by the ciphertext; the associated data has it too, so it is the KEK id's.
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

// explainRefusal returns sealer.ErrUnknownKEK if an envelope names a version that does not exist or was disabled, and otherwise
// sealer.ErrBinding: the answer to Decrypt is the same.
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

// errChanged says that bytes were changed between this process and Cloud KMS, or in it.
var errChanged = fmt.Errorf("%w: a checksum of Google Cloud KMS does not match: bytes were changed on the way", sealer.ErrUnavailable)

func checksum(bytes []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(bytes, crc32.MakeTable(crc32.Castagnoli))))
}

func isIntact(bytes []byte, sum *wrapperspb.Int64Value) bool {
	return sum != nil && sum.GetValue() == checksum(bytes).GetValue()
}

// classify turns the error of a call into one of ours. Texts of Google are not quoted, except of a failure without an answer.
func (k *symmetricKey) classify(permission string, err error) error {
	switch code := status.Code(err); code {
	case codes.FailedPrecondition, codes.NotFound:
		if strings.HasSuffix(permission, ".useToEncrypt") || strings.HasSuffix(permission, ".useToDecrypt") {
			return fmt.Errorf("%w (%s)", sealer.ErrUnknownKEK, code)
		}
		return refuse("%s: there is no key %s", code, k.cfg.Key)
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Unimplemented:
		return refuse("%s; the credentials must be valid, and have cloudkms.%s on %s", code, permission, k.cfg.Key)
	case codes.Unavailable, codes.Unknown:
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: Google Cloud KMS answered %s", sealer.ErrUnavailable, code)
	}
}

// refuse returns a kms.ErrRefused that says what is wrong and what to do.
func refuse(format string, arguments ...any) error {
	return fmt.Errorf("%w: %s", kms.ErrRefused, fmt.Sprintf(format, arguments...))
}

// garbled returns an error that says what is wrong with an answer and quotes none of it.
func garbled(what string) error {
	return fmt.Errorf("%w: the answer is not one of Google Cloud KMS: %s", sealer.ErrUnavailable, what)
}
