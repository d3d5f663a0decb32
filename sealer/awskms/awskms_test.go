package awskms_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	service "github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/awskms"
	"github.com/agentrouter/aikeys/sealer/awskms/awskmstest"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// generous allows for busy machines and slow emulators.
var generous = kms.Options{Timeout: 30 * time.Second}

// The emulators are shared by the tests of this package, each of which has keys of its own.
var moto, localKMS *awskmstest.Server

func TestMain(m *testing.M) {
	awskmstest.SetCredentials()
	var first, second error
	moto, first = awskmstest.Run("moto")
	localKMS, second = awskmstest.Run("local-kms")
	code := 1
	if err := errors.Join(first, second); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	for _, server := range []*awskmstest.Server{moto, localKMS} {
		if server != nil {
			server.Stop()
		}
	}
	os.Exit(code)
}

func mustOpen(t *testing.T, url string, options kms.Options) *kms.Sealer {
	t.Helper()
	s, err := awskms.Open(t.Context(), url, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func seal(t *testing.T, s sealer.Sealer) (sealer.Envelope, error) {
	return s.Seal(t.Context(), sealertest.Binding(), sealer.NewSecret([]byte(sealertest.Secret)))
}

func TestContract(t *testing.T) {
	for name, server := range map[string]*awskmstest.Server{"moto": moto, "local-kms": localKMS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sealertest.Run(t, func(t *testing.T) sealer.Sealer {
				return mustOpen(t, server.Sealer(server.NewKey(t, &service.CreateKeyInput{})), generous)
			})
		})
	}
}

// CloudTrail shows the encryption context, so it says whose key was opened, and nothing secret.
func TestEncryptionContextIsTheBinding(t *testing.T) {
	s := mustOpen(t, moto.Sealer(moto.NewKey(t, &service.CreateKeyInput{})), generous)
	binding := sealer.Binding{CustomerID: "acme", ProjectID: "p1", KeyID: "byok_1", Provider: "x-vllm#0f3a", Version: 1}
	envelope, err := s.Seal(t.Context(), binding, sealer.NewSecret([]byte(sealertest.Secret)))
	require.NoError(t, err)
	var calls atomic.Int64
	var body atomic.Value
	moto.Intercept(t, func(server http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			text, _ := io.ReadAll(r.Body)
			calls.Add(1)
			body.Store(string(text))
			r.Body = io.NopCloser(strings.NewReader(string(text)))
			server.ServeHTTP(w, r)
		})
	})
	_, err = s.Open(t.Context(), binding, envelope.Bytes)
	require.NoError(t, err)
	require.EqualValues(t, 1, calls.Load(), "a cold open is one call")
	require.Contains(t, body.Load(), `"EncryptionContext":{`)
	for _, pair := range []string{`"aikeys:customer":"acme"`, `"aikeys:project":"p1"`, `"aikeys:key":"byok_1"`, `"aikeys:provider":"x-vllm#0f3a"`, `"aikeys:version":"1"`} {
		require.Contains(t, body.Load(), pair)
	}
	require.NotContains(t, body.Load(), sealertest.Secret)
	_, err = s.Seal(t.Context(), sealer.Binding{CustomerID: "a\xff", ProjectID: "p", KeyID: "k", Provider: "openai", Version: 1}, sealer.NewSecret([]byte(sealertest.Secret)))
	require.ErrorIs(t, err, sealer.ErrInvalidBinding)
}

// An alias is resolved once. After it has moved, a running process keeps its key, and a new process does not know the
// previous KEK.
func TestAnAliasThatMoves(t *testing.T) {
	first, second := localKMS.NewKey(t, &service.CreateKeyInput{}), localKMS.NewKey(t, &service.CreateKeyInput{})
	alias := aws.String("alias/aikeys")
	_, err := localKMS.Admin.CreateAlias(t.Context(), &service.CreateAliasInput{AliasName: alias, TargetKeyId: &first})
	require.NoError(t, err)
	before := mustOpen(t, localKMS.Sealer(*alias), generous)
	old := sealertest.MustSeal(t, before)
	require.Equal(t, "awskms:"+first, old.KEKID)
	_, err = localKMS.Admin.UpdateAlias(t.Context(), &service.UpdateAliasInput{AliasName: alias, TargetKeyId: &second})
	require.NoError(t, err)
	require.Equal(t, "awskms:"+first, sealertest.MustSeal(t, before).KEKID)
	sealertest.RequireOpens(t, before, old.Bytes)

	after := mustOpen(t, localKMS.Sealer(*alias), generous)
	_, err = after.Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	both := sealer.Migrating(after, mustOpen(t, localKMS.Sealer(first), generous))
	moved, err := both.Rewrap(t.Context(), sealertest.Binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, "awskms:"+second, moved.KEKID)
	sealertest.RequireOpens(t, after, moved.Bytes)
}

// AWS makes new key material under the same ARN. Envelopes from before still open.
func TestRotationByAWS(t *testing.T) {
	arn := moto.NewKey(t, &service.CreateKeyInput{})
	s := mustOpen(t, moto.Sealer(arn), generous)
	old := sealertest.MustSeal(t, s)
	_, err := moto.Admin.RotateKeyOnDemand(t.Context(), &service.RotateKeyOnDemandInput{KeyId: &arn})
	require.NoError(t, err)
	sealertest.RequireOpens(t, s, old.Bytes)
	require.Equal(t, old.KEKID, sealertest.MustSeal(t, s).KEKID)
}

// The KEK id of a replica in another Region counts as the key's own.
func TestReplicasOfAMultiRegionKey(t *testing.T) {
	arn := moto.NewKey(t, &service.CreateKeyInput{MultiRegion: aws.Bool(true)})
	require.Contains(t, arn, "key/mrk-")
	options := generous
	options.WrapOnly = true // moto does not decrypt what such a key has encrypted
	s := mustOpen(t, moto.Sealer(arn), options)
	envelope := sealertest.MustSeal(t, s)
	elsewhere := strings.Replace(envelope.KEKID, awskmstest.Region, "us-centra-11", 1)
	require.NotEqual(t, envelope.KEKID, elsewhere)
	_, err := s.Open(t.Context(), sealertest.Binding(), []byte(strings.Replace(string(envelope.Bytes), envelope.KEKID, elsewhere, 1)))
	require.NotErrorIs(t, err, sealer.ErrUnknownKEK)
	other := mustOpen(t, moto.Sealer(moto.NewKey(t, &service.CreateKeyInput{})), generous)
	_, err = other.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
}

func TestStartRefusesKeysThatCantServe(t *testing.T) {
	withState := func(change func(arn string) error) func(t *testing.T) string {
		return func(t *testing.T) string {
			arn := localKMS.NewKey(t, &service.CreateKeyInput{})
			require.NoError(t, change(arn))
			return localKMS.Sealer(arn)
		}
	}
	for name, tc := range map[string]struct {
		url  func(t *testing.T) string
		says string
	}{
		"a mistyped key":      {func(*testing.T) string { return localKMS.Sealer("11112222-3333-4444-5555-666677778888") }, "there is no key 11112222-"},
		"an alias of nothing": {func(*testing.T) string { return localKMS.Sealer("alias/none") }, "there is no key alias/none in eu-central-1"},
		"a key that signs": {func(t *testing.T) string {
			return localKMS.Sealer(localKMS.NewKey(t, &service.CreateKeyInput{KeySpec: types.KeySpecEccNistP256, KeyUsage: types.KeyUsageTypeSignVerify}))
		}, "make a symmetric one for ENCRYPT_DECRYPT"},
		"a key without AEAD": {func(t *testing.T) string {
			return moto.Sealer(moto.NewKey(t, &service.CreateKeyInput{KeySpec: types.KeySpecRsa2048, KeyUsage: types.KeyUsageTypeEncryptDecrypt}))
		}, "RSA_2048 for ENCRYPT_DECRYPT"},
		"a disabled key": {withState(func(arn string) error {
			_, err := localKMS.Admin.DisableKey(t.Context(), &service.DisableKeyInput{KeyId: &arn})
			return err
		}), "is in the state Disabled; enable it"},
		"a key to be deleted": {withState(func(arn string) error {
			_, err := localKMS.Admin.ScheduleKeyDeletion(t.Context(), &service.ScheduleKeyDeletionInput{KeyId: &arn})
			return err
		}), "is in the state PendingDeletion"},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, tc.url(t), generous)
			_, err := seal(t, s)
			require.ErrorIs(t, err, kms.ErrRefused)
			require.ErrorContains(t, err, tc.says)
		})
	}
}

// The cases are the rows of the table of errors in docs/awskms.md. local-kms produces the errors that it supports. For
// the others, the test answers with the error codes that AWS documents.
func TestErrorsOfOpen(t *testing.T) {
	code := func(status int, code string) func(*testing.T, string) {
		return func(t *testing.T, _ string) {
			localKMS.Intercept(t, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/x-amz-json-1.1")
					w.WriteHeader(status)
					_, _ = io.WriteString(w, `{"__type":"`+code+`","message":"`+sealertest.Secret+`"}`) // the client may have gone
				})
			})
		}
	}
	tests := map[string]struct {
		spoil  func(t *testing.T, arn string)
		is     error
		isNot  error
		change func(envelope sealer.Envelope) []byte
	}{
		"changed bytes": {nil, sealer.ErrBinding, sealer.ErrUnavailable, func(e sealer.Envelope) []byte {
			e.Bytes[len(e.Bytes)-76] ^= 1
			return e.Bytes
		}},
		"another binding": {nil, sealer.ErrBinding, sealer.ErrUnavailable, nil},
		"a disabled key": {func(t *testing.T, arn string) {
			_, err := localKMS.Admin.DisableKey(t.Context(), &service.DisableKeyInput{KeyId: &arn})
			require.NoError(t, err)
		}, sealer.ErrUnknownKEK, sealer.ErrUnavailable, nil},
		"a key to be deleted": {func(t *testing.T, arn string) {
			_, err := localKMS.Admin.ScheduleKeyDeletion(t.Context(), &service.ScheduleKeyDeletionInput{KeyId: &arn})
			require.NoError(t, err)
		}, sealer.ErrUnknownKEK, sealer.ErrUnavailable, nil},
		"IncorrectKeyException":       {code(400, "IncorrectKeyException"), sealer.ErrBinding, sealer.ErrUnavailable, nil},
		"NotFoundException":           {code(400, "NotFoundException"), sealer.ErrUnknownKEK, sealer.ErrUnavailable, nil},
		"AccessDeniedException":       {code(400, "AccessDeniedException"), kms.ErrRefused, sealer.ErrBinding, nil},
		"InvalidKeyUsageException":    {code(400, "InvalidKeyUsageException"), kms.ErrRefused, sealer.ErrBinding, nil},
		"ValidationException":         {code(400, "ValidationException"), kms.ErrRefused, sealer.ErrBinding, nil},
		"UnrecognizedClientException": {code(400, "UnrecognizedClientException"), kms.ErrRefused, sealer.ErrBinding, nil},
		"InvalidSignatureException":   {code(403, "InvalidSignatureException"), kms.ErrRefused, sealer.ErrBinding, nil},
		"ExpiredTokenException":       {code(400, "ExpiredTokenException"), kms.ErrRefused, sealer.ErrBinding, nil},
		"IncompleteSignature":         {code(403, "IncompleteSignature"), kms.ErrRefused, sealer.ErrBinding, nil},
		"MissingAuthenticationToken":  {code(403, "MissingAuthenticationToken"), kms.ErrRefused, sealer.ErrBinding, nil},
		"ThrottlingException":         {code(400, "ThrottlingException"), sealer.ErrUnavailable, kms.ErrRefused, nil},
		"LimitExceededException":      {code(400, "LimitExceededException"), sealer.ErrUnavailable, kms.ErrRefused, nil},
		"KeyUnavailableException":     {code(500, "KeyUnavailableException"), sealer.ErrUnavailable, kms.ErrRefused, nil},
		"DependencyTimeoutException":  {code(500, "DependencyTimeoutException"), sealer.ErrUnavailable, kms.ErrRefused, nil},
		"KMSInternalException":        {code(500, "KMSInternalException"), sealer.ErrUnavailable, kms.ErrRefused, nil},
		"another key's plaintext": {func(t *testing.T, _ string) {
			localKMS.Intercept(t, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/x-amz-json-1.1")
					_, _ = io.WriteString(w, `{"KeyId":"arn:aws:kms:eu-central-1:111122223333:key/other","Plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`)
				})
			})
		}, sealer.ErrUnavailable, sealer.ErrBinding, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			arn := localKMS.NewKey(t, &service.CreateKeyInput{})
			s := mustOpen(t, localKMS.Sealer(arn), generous)
			envelope := sealertest.MustSeal(t, s)
			if tc.spoil != nil {
				tc.spoil(t, arn)
			}
			opened := envelope.Bytes
			if tc.change != nil {
				opened = tc.change(envelope)
			}
			bound := sealertest.Binding()
			if name == "another binding" {
				bound.CustomerID = "other"
			}
			_, err := s.Open(t.Context(), bound, opened)
			require.ErrorIs(t, err, tc.is)
			require.NotErrorIs(t, err, tc.isNot)
			require.NotContains(t, err.Error(), sealertest.Secret)
			if errors.Is(tc.is, sealer.ErrUnknownKEK) {
				_, err := seal(t, s)
				require.ErrorIs(t, err, kms.ErrRefused, "a register is answered 503")
			}
		})
	}
}

func TestAServiceThatHangs(t *testing.T) {
	arn := localKMS.NewKey(t, &service.CreateKeyInput{})
	envelope := sealertest.MustSeal(t, mustOpen(t, localKMS.Sealer(arn), generous))
	s := mustOpen(t, localKMS.Sealer(arn), kms.Options{Timeout: 200 * time.Millisecond})
	released := make(chan struct{})
	localKMS.Intercept(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released })
	})
	t.Cleanup(func() { close(released) })
	_, err := s.Open(t.Context(), sealertest.Binding(), envelope.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	require.ErrorContains(t, err, "did not answer within 200ms")
}

func TestMissingCredentialsAreRefused(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	for _, name := range []string{"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"} {
		t.Setenv(name, os.DevNull)
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	_, err := seal(t, mustOpen(t, localKMS.Sealer("alias/any"), generous))
	require.ErrorIs(t, err, kms.ErrRefused)
	require.ErrorContains(t, err, "AWS's default chain finds no credentials: ")
}

func TestNoConfigurationSendsDataKeysInTheClear(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://kms.internal")
	_, err := awskms.Open(t.Context(), "awskms://eu-central-1/alias/any", generous)
	require.ErrorContains(t, err, "AWS's configuration has an endpoint without https")
}

func TestParseURL(t *testing.T) {
	const arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	for text, want := range map[string]awskms.Config{
		"awskms://eu-central-1/alias/team/aikeys": {Region: "eu-central-1", Key: "alias/team/aikeys"},
		"awskms://eu-central-1/" + arn:            {Region: "eu-central-1", Key: arn},
		"awskms://us-gov-west-1/mrk-1234?profile=p&endpoint=https://vpce-1.kms.us-gov-west-1.vpce.amazonaws.com": {
			Region: "us-gov-west-1", Key: "mrk-1234", Profile: "p", Endpoint: "https://vpce-1.kms.us-gov-west-1.vpce.amazonaws.com"},
	} {
		got, err := awskms.ParseURL(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for text, says := range map[string]string{
		"awskms://eu-central-1":                                        "must be awskms://",
		"awskms://eu-central-1/a/b":                                    "must be awskms://",
		"awskms://somewhere/1234":                                      "has no region",
		"awskms:///alias/a":                                            "has no region",
		"awskms://us-east-1/" + arn:                                    "an ARN of another region",
		"awskms://eu-central-1/alias/aws/s3":                           "names a key that AWS manages",
		"awskms://eu-central-1/1234?secret=x":                          `has the parameter "secret"`,
		"awskms://eu-central-1/1234?endpoint=http://kms.internal":      "has an endpoint without https",
		"awskms://eu-central-1/1234?endpoint=https://u:p@kms.internal": "has an endpoint that is not",
	} {
		_, err := awskms.ParseURL(text)
		require.ErrorContains(t, err, says, text)
	}
}
