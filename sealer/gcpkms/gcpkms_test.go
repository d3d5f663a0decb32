package gcpkms_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/gcpkms"
	"github.com/agentrouter/aikeys/sealer/gcpkms/gcpkmstest"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

const (
	encrypt   = kmspb.CryptoKey_ENCRYPT_DECRYPT
	keyPrefix = "gcpkms:projects/acme/locations/europe-west3/keyRings/aikeys/cryptoKeys/"
)

func mustOpen(t *testing.T, url string, options kms.Options) *kms.Sealer {
	t.Helper()
	s, err := gcpkms.Open(t.Context(), url, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// start returns a server with a key, and a Sealer with it.
func start(t *testing.T) (*gcpkmstest.Server, *kms.Sealer) {
	t.Helper()
	server := gcpkmstest.Start(t)
	server.NewKey(t, "k", encrypt)
	return server, mustOpen(t, server.URL("k"), kms.Options{Timeout: 10 * time.Second})
}

func seal(t *testing.T, s sealer.Sealer) (sealer.Envelope, error) {
	return s.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
}

func TestContract(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer {
		_, s := start(t)
		return s
	})
}

func TestRotation(t *testing.T) {
	server, before := start(t)
	old := sealertest.MustSeal(t, before)
	require.Equal(t, keyPrefix+"k/cryptoKeyVersions/1", old.KEKID)
	server.Rotate(t, "k")
	after := mustOpen(t, server.URL("k"), kms.Options{})
	sealertest.RequireOpens(t, after, old.Bytes)
	renewed, err := after.Rewrap(t.Context(), sealertest.Binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, keyPrefix+"k/cryptoKeyVersions/2", renewed.KEKID)
	require.True(t, sealer.SamePayload(old.Bytes, renewed.Bytes))
	sealertest.RequireOpens(t, before, renewed.Bytes)

	server.SetState("k", 1, kmspb.CryptoKeyVersion_DISABLED)
	_, err = after.Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	require.Equal(t, renewed.KEKID, sealertest.MustSeal(t, before).KEKID, "a list that is out of date is read again")
	keks, err := mustOpen(t, server.URL("k"), kms.Options{}).KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: renewed.KEKID, State: sealer.KEKPrimary}, {ID: old.KEKID, State: sealer.KEKRetired}}, keks)
	server.SetState("k", 1, kmspb.CryptoKeyVersion_ENABLED)
	sealertest.RequireOpens(t, after, old.Bytes)
}

func TestStartRefusesKeysThatCantServe(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, server *gcpkmstest.Server)
		says    string
	}{
		"a mistyped key":     {func(*testing.T, *gcpkmstest.Server) {}, "there is no key projects/acme/"},
		"a key that signs":   {func(t *testing.T, s *gcpkmstest.Server) { s.NewKey(t, "k", kmspb.CryptoKey_ASYMMETRIC_SIGN) }, "for ASYMMETRIC_SIGN"},
		"a key without AEAD": {func(t *testing.T, s *gcpkmstest.Server) { s.NewKey(t, "k", kmspb.CryptoKey_ASYMMETRIC_DECRYPT) }, "create one with the purpose ENCRYPT_DECRYPT"},
		"a disabled primary version": {func(t *testing.T, s *gcpkmstest.Server) {
			s.NewKey(t, "k", encrypt)
			s.SetState("k", 1, kmspb.CryptoKeyVersion_DESTROY_SCHEDULED)
		}, "is DESTROY_SCHEDULED; enable it"},
	} {
		t.Run(name, func(t *testing.T) {
			server := gcpkmstest.Start(t)
			tc.prepare(t, server)
			_, err := seal(t, mustOpen(t, server.URL("k"), kms.Options{Timeout: 10 * time.Second}))
			require.ErrorIs(t, err, kms.ErrRefused)
			require.ErrorContains(t, err, tc.says)
		})
	}
}

// These are the rows of the table of errors.
func TestErrorsOfOpen(t *testing.T) {
	code := func(code codes.Code) func(*gcpkmstest.Server) {
		return func(s *gcpkmstest.Server) {
			s.Before = func(context.Context, string) error { return status.Error(code, sealertest.Secret) }
		}
	}
	for name, tc := range map[string]struct {
		spoil     func(s *gcpkmstest.Server)
		is, isNot error
	}{
		"a disabled version":  {func(s *gcpkmstest.Server) { s.SetState("k", 1, kmspb.CryptoKeyVersion_DISABLED) }, sealer.ErrUnknownKEK, sealer.ErrUnavailable},
		"a destroyed version": {func(s *gcpkmstest.Server) { s.SetState("k", 1, kmspb.CryptoKeyVersion_DESTROYED) }, sealer.ErrUnknownKEK, sealer.ErrUnavailable},
		"NOT_FOUND":           {code(codes.NotFound), sealer.ErrUnknownKEK, sealer.ErrUnavailable},
		"FAILED_PRECONDITION": {code(codes.FailedPrecondition), sealer.ErrUnknownKEK, sealer.ErrUnavailable},
		"PERMISSION_DENIED":   {code(codes.PermissionDenied), kms.ErrRefused, sealer.ErrBinding},
		"UNAUTHENTICATED":     {code(codes.Unauthenticated), kms.ErrRefused, sealer.ErrBinding},
		"UNIMPLEMENTED":       {code(codes.Unimplemented), kms.ErrRefused, sealer.ErrBinding},
		"RESOURCE_EXHAUSTED":  {code(codes.ResourceExhausted), sealer.ErrUnavailable, kms.ErrRefused},
		"INTERNAL":            {code(codes.Internal), sealer.ErrUnavailable, kms.ErrRefused},
		"ABORTED":             {code(codes.Aborted), sealer.ErrUnavailable, kms.ErrRefused},
		"INVALID_ARGUMENT, and the version can't be looked at": {func(s *gcpkmstest.Server) {
			s.Before = func(_ context.Context, method string) error {
				if method == "Decrypt" {
					return status.Error(codes.InvalidArgument, sealertest.Secret)
				}
				return status.Error(codes.PermissionDenied, sealertest.Secret)
			}
		}, kms.ErrRefused, sealer.ErrBinding},
		"a wrong checksum": {func(s *gcpkmstest.Server) {
			s.After = func(_ string, answer any) {
				if a, ok := answer.(*kmspb.DecryptResponse); ok {
					a.Plaintext[0] ^= 1
				}
			}
		}, sealer.ErrUnavailable, sealer.ErrBinding},
		"no checksum": {func(s *gcpkmstest.Server) {
			s.After = func(_ string, answer any) {
				if a, ok := answer.(*kmspb.DecryptResponse); ok {
					a.PlaintextCrc32C = nil
				}
			}
		}, sealer.ErrUnavailable, sealer.ErrBinding},
	} {
		t.Run(name, func(t *testing.T) {
			server, s := start(t)
			envelope := sealertest.MustSeal(t, s)
			tc.spoil(server)
			_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
			require.ErrorIs(t, err, tc.is)
			require.NotErrorIs(t, err, tc.isNot)
			require.NotContains(t, err.Error(), sealertest.Secret)
		})
	}
}

// Bytes that were changed on the way are not sealed.
func TestChecksumsOfSealing(t *testing.T) {
	for name, change := range map[string]func(a *kmspb.EncryptResponse){
		"of the ciphertext":                 func(a *kmspb.EncryptResponse) { a.Ciphertext[5] ^= 1 },
		"none of the ciphertext":            func(a *kmspb.EncryptResponse) { a.CiphertextCrc32C = nil },
		"of the data key, not checked":      func(a *kmspb.EncryptResponse) { a.VerifiedPlaintextCrc32C = false },
		"of associated data, not checked":   func(a *kmspb.EncryptResponse) { a.VerifiedAdditionalAuthenticatedDataCrc32C = false },
		"right, but another version's name": func(a *kmspb.EncryptResponse) { a.Name += "1" },
	} {
		t.Run(name, func(t *testing.T) {
			server, s := start(t)
			server.After = func(_ string, answer any) {
				if a, ok := answer.(*kmspb.EncryptResponse); ok {
					change(a)
				}
			}
			_, err := seal(t, s)
			require.ErrorIs(t, err, sealer.ErrUnavailable)
			require.NotErrorIs(t, err, sealer.ErrBinding)
		})
	}
}

func TestAFailedCallIsSentOnceMore(t *testing.T) {
	server, s := start(t)
	envelope := sealertest.MustSeal(t, s)
	var calls atomic.Int64
	server.Before = func(context.Context, string) error {
		calls.Add(1)
		return status.Error(codes.Unavailable, "down")
	}
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "down")
	require.EqualValues(t, 2, calls.Load())
}

func TestAServiceThatHangs(t *testing.T) {
	server, whole := start(t)
	envelope := sealertest.MustSeal(t, whole)
	ended := make(chan struct{})
	defer close(ended)
	server.Before = func(context.Context, string) error { <-ended; return nil } // it does not see the client's deadline
	s := mustOpen(t, server.URL("k"), kms.Options{Timeout: 200 * time.Millisecond})
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "did not answer within 200ms")
}

func TestParseURL(t *testing.T) {
	const key = "projects/acme-1/locations/global/keyRings/ring/cryptoKeys/aikeys"
	got, err := gcpkms.ParseURL("gcpkms://" + key)
	require.NoError(t, err)
	require.Equal(t, gcpkms.Config{Key: key}, got)
	got, err = gcpkms.ParseURL("gcpkms://" + key + "?endpoint=kms.internal:443")
	require.NoError(t, err)
	require.Equal(t, "kms.internal:443", got.Endpoint)
	for text, says := range map[string]string{
		"gcpkms://acme/aikeys":                         "must be gcpkms://projects/",
		"gcpkms://" + key + "/cryptoKeyVersions/1":     "must be gcpkms://projects/",
		"gcpkms://" + key + "?endpoint=kms":            `has the parameter "endpoint"`,
		"gcpkms://" + key + "?credentials=/etc/a.json": `has the parameter "credentials"`,
	} {
		_, err := gcpkms.ParseURL(text)
		require.ErrorContains(t, err, says, text)
	}
}
