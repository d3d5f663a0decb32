package secrets_test

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// operations are all operations of the API document, each called with a valid envelope.
func operations(s *service, envelope string) map[secrets.Permission]func() answer {
	ctx := context.Background()
	return map[secrets.Permission]func() answer{
		secrets.Seal: func() answer {
			reply, err := s.client.SealSecretWithResponse(ctx, sealRequest("sk-0123456789"))
			require.NoError(s.t, err)
			return reply
		},
		secrets.Open: func() answer { return s.open(envelope) },
		secrets.Rewrap: func() answer {
			reply, err := s.client.RewrapEnvelopesWithResponse(ctx, gen.RewrapRequest{Items: []gen.OpenRequest{openRequest(envelope)}})
			require.NoError(s.t, err)
			return reply
		},
		secrets.Status: func() answer {
			reply, err := s.client.ListKEKsWithResponse(ctx)
			require.NoError(s.t, err)
			return reply
		},
	}
}

func TestPermissions(t *testing.T) {
	s := start(t, options{})
	envelope := s.seal(s.marked()).Envelope
	for name, may := range map[string][]secrets.Permission{
		`["seal"]`: {secrets.Seal}, `["open"]`: {secrets.Open}, `["rewrap"]`: {secrets.Rewrap}, `["status"]`: {secrets.Status},
		`["rewrap", "status"]`: {secrets.Rewrap, secrets.Status}, everything: {secrets.Seal, secrets.Open, secrets.Rewrap, secrets.Status},
	} {
		t.Run(name, func(t *testing.T) {
			s.clients.set(clientsOf(t, name))
			allowed := map[secrets.Permission]bool{}
			for _, permission := range may {
				allowed[permission] = true
			}
			for permission, operation := range operations(s, envelope) {
				if allowed[permission] {
					require.Equal(t, http.StatusOK, operation().StatusCode(), permission)
				} else {
					requireRefused(t, operation(), http.StatusForbidden, "client-not-allowed")
				}
			}
		})
	}
}

func TestEveryOperationNeedsAPermission(t *testing.T) {
	doc, err := gen.GetSpec()
	require.NoError(t, err)
	s := start(t, options{})
	s.clients.set(clientsOf(t, `["status"]`))
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if path == "/v1/keks" {
				continue
			}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://secrets-svc"+path, http.NoBody)
			require.NoError(t, err)
			reply, err := s.http.Do(req)
			require.NoError(t, err)
			require.NoError(t, reply.Body.Close())
			require.Equal(t, http.StatusForbidden, reply.StatusCode, "%s %s", method, path)
		}
	}
}

func TestUnlistedClientIsRefused(t *testing.T) {
	s := start(t, options{})
	envelope := s.seal(s.marked()).Envelope
	stranger := strconv.Itoa(os.Geteuid() + 1)
	list, err := secrets.ParseClients([]byte(
		`{"clients": [{"name": "other", "uids": [` + stranger + `], "namespace": "main", "may": ` + everything + `}]}`))
	require.NoError(t, err)
	s.clients.set(list)
	for _, operation := range operations(s, envelope) {
		requireRefused(t, operation(), http.StatusForbidden, "client-not-allowed")
	}
	require.Contains(t, s.log.String(), `"source_ip":"uid:`+strconv.Itoa(os.Geteuid())+`"`, "the log tells who tried")
	last := s.audited()[len(s.audited())-1]
	require.Equal(t, "client-not-allowed", last["outcome"])
	require.Equal(t, []any{"uid:" + strconv.Itoa(os.Geteuid())}, last["peer"])
}

func TestNamespacesAreSeparate(t *testing.T) {
	s := start(t, options{spaces: spaces{"main": sealertest.New(t), "other": sealertest.New(t)}})
	plain := s.marked()
	sealed := s.seal(plain)
	envelope := sealed.Envelope
	in := func(namespace string) {
		list, err := secrets.ParseClients([]byte(`{"clients": [{"name": "tests", "uids": [` + strconv.Itoa(os.Geteuid()) +
			`], "namespace": "` + namespace + `", "may": ` + everything + `}]}`))
		require.NoError(t, err)
		s.clients.set(list)
	}
	in("other")
	requireRefused(t, s.open(envelope), http.StatusUnprocessableEntity, "unknown-kek")
	rewrapped, err := s.client.RewrapEnvelopesWithResponse(t.Context(), gen.RewrapRequest{Items: []gen.OpenRequest{openRequest(envelope)}})
	require.NoError(t, err)
	require.Equal(t, "unknown-kek", *rewrapped.JSON200.Results[0].Problem)
	keks, err := s.client.ListKEKsWithResponse(t.Context())
	require.NoError(t, err)
	require.Len(t, keks.JSON200.Keks, 1)
	require.Equal(t, s.seal(plain).KekID, keks.JSON200.Primary)
	require.NotEqual(t, sealed.KekID, keks.JSON200.Primary)

	in("missing")
	for permission, operation := range operations(s, envelope) {
		doc := requireRefused(t, operation(), http.StatusServiceUnavailable, "unavailable")
		require.NotContains(t, doc.Detail, "missing", permission)
	}
	in("main")
	s.requireOpens(envelope, plain)
}

// A connection that is neither from WithPeers nor TLS with a client certificate has no identity, so every request is refused.
func TestConnectionWithoutIdentityIsRefused(t *testing.T) {
	require.Empty(t, secrets.Identities(t.Context()))
	s := start(t, options{})
	for _, path := range []string{"/v1/keks", "/v1/seal", "/v1/open", "/v1/rewrap"} {
		method := http.MethodPost
		if path == "/v1/keks" {
			method = http.MethodGet
		}
		require.Equal(t, http.StatusForbidden, s.past(t, method, path, ""), path)
	}
}
