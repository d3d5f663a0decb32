// Package gcpkmstest is a small server of the published protocol of Google Cloud KMS, for tests: symmetric keys,
// versions and their states, checksums. It implements only what the documentation of the real service describes.
//
// For tests only. It imports testify and none of our packages.
package gcpkmstest

import (
	"context"
	"fmt"
	"hash/crc32"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/subtle/random"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const keyRing = "projects/acme/locations/europe-west3/keyRings/aikeys/cryptoKeys/"

// Server has keys. Before and After are set before calls are made.
type Server struct {
	kmspb.UnimplementedKeyManagementServiceServer
	address string

	// If Before returns an error, that is the answer. After may change an answer. Both may be nil.
	Before func(ctx context.Context, method string) error
	After  func(method string, answer any)

	mu   sync.Mutex
	keys map[string]*key // :: name → key
}

type key struct {
	purpose  kmspb.CryptoKey_CryptoKeyPurpose
	primary  int
	versions []*version
}

type version struct {
	cipher *subtle.AESGCM
	state  kmspb.CryptoKeyVersion_CryptoKeyVersionState
}

// Start starts a server that stops when the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{keys: map[string]*key{}}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.address = listener.Addr().String()
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	kmspb.RegisterKeyManagementServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); require.NoError(t, <-done) })
	return s
}

func (s *Server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	if s.Before != nil {
		if err := s.Before(ctx, method); err != nil {
			return nil, err
		}
	}
	s.mu.Lock() // for the methods
	answer, err := handler(ctx, request)
	s.mu.Unlock()
	if err == nil && s.After != nil {
		s.After(method, answer)
	}
	return answer, err
}

// URL returns the URL of a key.
func (s *Server) URL(name string) string {
	return "gcpkms://" + keyRing + name + "?endpoint=" + s.address
}

// NewKey makes a key with one version, which is primary.
func (s *Server) NewKey(t testing.TB, name string, purpose kmspb.CryptoKey_CryptoKeyPurpose) {
	t.Helper()
	s.mu.Lock()
	s.keys[keyRing+name] = &key{purpose: purpose}
	s.mu.Unlock()
	s.Rotate(t, name)
}

// Rotate gives a key a new version, which is primary.
func (s *Server) Rotate(t testing.TB, name string) {
	t.Helper()
	cipher, err := subtle.NewAESGCM(random.GetRandomBytes(32))
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[keyRing+name]
	k.versions = append(k.versions, &version{cipher, kmspb.CryptoKeyVersion_ENABLED})
	k.primary = len(k.versions)
}

// SetState changes the state of a version.
func (s *Server) SetState(name string, number int, state kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[keyRing+name].versions[number-1].state = state
}

func (s *Server) find(name string) (*key, error) {
	k := s.keys[name]
	if k == nil {
		return nil, status.Error(codes.NotFound, "no such key")
	}
	return k, nil
}

// findVersion returns a version by its full name.
func (s *Server) findVersion(name string) (*version, int, error) {
	keyName, digits, _ := strings.Cut(name, "/cryptoKeyVersions/")
	k, err := s.find(keyName)
	number, _ := strconv.Atoi(digits)
	if err != nil || number < 1 || number > len(k.versions) {
		return nil, 0, status.Error(codes.NotFound, "no such version")
	}
	return k.versions[number-1], number, nil
}

func describe(keyName string, number int, v *version) *kmspb.CryptoKeyVersion {
	return &kmspb.CryptoKeyVersion{Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", keyName, number), State: v.state}
}

// GetCryptoKey implements the service.
func (s *Server) GetCryptoKey(_ context.Context, r *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	k, err := s.find(r.GetName())
	if err != nil {
		return nil, err
	}
	found := &kmspb.CryptoKey{Name: r.GetName(), Purpose: k.purpose}
	if k.purpose == kmspb.CryptoKey_ENCRYPT_DECRYPT {
		found.Primary = describe(r.GetName(), k.primary, k.versions[k.primary-1])
	}
	return found, nil
}

// GetCryptoKeyVersion implements the service.
func (s *Server) GetCryptoKeyVersion(_ context.Context, r *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	v, number, err := s.findVersion(r.GetName())
	if err != nil {
		return nil, err
	}
	keyName, _, _ := strings.Cut(r.GetName(), "/cryptoKeyVersions/")
	return describe(keyName, number, v), nil
}

// ListCryptoKeyVersions implements the service.
func (s *Server) ListCryptoKeyVersions(_ context.Context, r *kmspb.ListCryptoKeyVersionsRequest) (*kmspb.ListCryptoKeyVersionsResponse, error) {
	k, err := s.find(r.GetParent())
	if err != nil {
		return nil, err
	}
	list := &kmspb.ListCryptoKeyVersionsResponse{}
	for i, v := range k.versions {
		list.CryptoKeyVersions = append(list.CryptoKeyVersions, describe(r.GetParent(), i+1, v))
	}
	return list, nil
}

// Encrypt implements the service. The ciphertext begins with the number of its version.
func (s *Server) Encrypt(_ context.Context, r *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	v, number, err := s.findVersion(r.GetName())
	if err != nil {
		return nil, err
	}
	if err := check(v, r.GetPlaintext(), r.GetPlaintextCrc32C(), r.GetAdditionalAuthenticatedData(), r.GetAdditionalAuthenticatedDataCrc32C()); err != nil {
		return nil, err
	}
	ciphertext, err := v.cipher.Encrypt(r.GetPlaintext(), r.GetAdditionalAuthenticatedData())
	if err != nil {
		return nil, status.Error(codes.Internal, "encrypt")
	}
	ciphertext = append([]byte{byte(number)}, ciphertext...) //nolint:gosec // G115: tests make few versions
	return &kmspb.EncryptResponse{
		Name: r.GetName(), Ciphertext: ciphertext, CiphertextCrc32C: checksum(ciphertext),
		VerifiedPlaintextCrc32C: true, VerifiedAdditionalAuthenticatedDataCrc32C: true,
	}, nil
}

// Decrypt implements the service.
func (s *Server) Decrypt(_ context.Context, r *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	k, err := s.find(r.GetName())
	if err != nil {
		return nil, err
	}
	ciphertext := r.GetCiphertext()
	if len(ciphertext) == 0 || int(ciphertext[0]) < 1 || int(ciphertext[0]) > len(k.versions) {
		return nil, status.Error(codes.InvalidArgument, "the ciphertext is invalid")
	}
	v := k.versions[ciphertext[0]-1]
	if err := check(v, ciphertext, r.GetCiphertextCrc32C(), r.GetAdditionalAuthenticatedData(), r.GetAdditionalAuthenticatedDataCrc32C()); err != nil {
		return nil, err
	}
	plaintext, err := v.cipher.Decrypt(ciphertext[1:], r.GetAdditionalAuthenticatedData())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "the ciphertext is invalid")
	}
	return &kmspb.DecryptResponse{Plaintext: plaintext, PlaintextCrc32C: checksum(plaintext)}, nil
}

// check refuses a version that is not enabled, and bytes whose checksum is missing or wrong.
func check(v *version, text []byte, sum *wrapperspb.Int64Value, associatedData []byte, associatedSum *wrapperspb.Int64Value) error {
	switch {
	case v.state != kmspb.CryptoKeyVersion_ENABLED:
		return status.Error(codes.FailedPrecondition, "the version is not enabled")
	case sum.GetValue() != checksum(text).GetValue() || associatedSum.GetValue() != checksum(associatedData).GetValue():
		return status.Error(codes.InvalidArgument, "a checksum does not match")
	}
	return nil
}

func checksum(text []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli))))
}
