package secrets_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

// contract is the API document with its extensible enums closed: unknown values are errors.
var contract = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := gen.GetSpec()
	if err != nil {
		return nil, err
	}
	for _, ref := range doc.Components.Schemas {
		none := false
		if ref.Value.Type.Is("object") {
			ref.Value.AdditionalProperties.Has = &none
		}
		for _, property := range ref.Value.Properties {
			if known, ok := property.Value.Extensions["x-extensible-enum"].([]any); ok {
				property.Value.Enum = known
			}
		}
	}
	return doc, nil
})

// complaints returns what is wrong with a response.
func complaints(req *http.Request, resp *http.Response, body []byte) []string {
	doc, err := contract()
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	item := doc.Paths.Value(req.URL.Path)
	if item == nil || item.GetOperation(req.Method) == nil {
		return found
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, Route: &routers.Route{
			Spec: doc, Path: req.URL.Path, PathItem: item, Method: req.Method, Operation: item.GetOperation(req.Method),
		}},
		Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.DisableSchemaErrorDetails()},
		},
	})
	if err != nil {
		found = append(found, fmt.Sprintf("%s %s, status %d: %v", req.Method, req.URL.Path, resp.StatusCode, err))
	}
	if resp.Header.Get("Cache-Control") != "no-store" {
		found = append(found, "the answer may be kept")
	}
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		found = append(found, "503 without Retry-After")
	}
	return found
}

// checkedTransport checks every response against the document, and keeps refusals so that they can be searched for secrets.
type checkedTransport struct {
	service *service
	base    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *checkedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if found := complaints(req, resp, body); len(found) > 0 {
		return nil, fmt.Errorf("not as documented: %q", found)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		_, _ = c.service.refusals.Write(body)
	}
	return resp, nil
}

// wired is a Sealer that uses only the generated client, so only what the document promises.
type wired struct{ *service }

// Seal implements sealer.Sealer.
func (w wired) Seal(ctx context.Context, b sealer.Binding, plain sealer.Secret) (sealer.Envelope, error) {
	reply, err := w.client.SealSecretWithResponse(ctx, gen.SealRequest{
		Binding: wireBinding(b), Secret: secret.New(base64.StdEncoding.EncodeToString(plain.Reveal())),
	})
	if err != nil || reply.JSON200 == nil {
		return sealer.Envelope{}, refusal(reply, err)
	}
	return unwired(reply.JSON200.KekID, reply.JSON200.Envelope)
}

// Open implements sealer.Sealer.
func (w wired) Open(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Secret, error) {
	reply, err := w.client.OpenEnvelopeWithResponse(ctx, gen.OpenRequest{
		Binding: wireBinding(b), Envelope: base64.StdEncoding.EncodeToString(envelope),
	})
	if err != nil || reply.JSON200 == nil {
		return sealer.Secret{}, refusal(reply, err)
	}
	plain, err := base64.StdEncoding.DecodeString(reply.JSON200.Secret.Reveal())
	return sealer.NewSecret(plain), err
}

// Rewrap implements sealer.Sealer. The response to a batch does not say what is wrong with an item.
func (w wired) Rewrap(ctx context.Context, b sealer.Binding, envelope []byte) (sealer.Envelope, error) {
	if _, err := b.AssociatedData(); err != nil {
		return sealer.Envelope{}, err
	}
	reply, err := w.client.RewrapEnvelopesWithResponse(ctx, gen.RewrapRequest{Items: []gen.OpenRequest{
		{Binding: wireBinding(b), Envelope: base64.StdEncoding.EncodeToString(envelope)},
	}})
	if err != nil || reply.JSON200 == nil {
		return sealer.Envelope{}, refusal(reply, err)
	}
	result := reply.JSON200.Results[0]
	if result.Problem != nil {
		return sealer.Envelope{}, sentinel(*result.Problem, "")
	}
	return unwired(*result.KekID, *result.Envelope)
}

// PrimaryKEK implements sealer.Sealer.
func (w wired) PrimaryKEK(ctx context.Context) (string, error) {
	reply, err := w.client.ListKEKsWithResponse(ctx)
	if err != nil || reply.JSON200 == nil {
		return "", refusal(reply, err)
	}
	return reply.JSON200.Primary, nil
}

func wireBinding(b sealer.Binding) gen.Binding {
	return gen.Binding{
		CustomerID: b.CustomerID, ProjectID: b.ProjectID, KeyID: b.KeyID, Provider: b.Provider, Version: int64(b.Version),
	}
}

func unwired(kekID, envelope string) (sealer.Envelope, error) {
	text, err := base64.StdEncoding.DecodeString(envelope)
	return sealer.Envelope{KEKID: kekID, Bytes: text}, err
}

func refusal(reply answer, err error) error {
	if err != nil {
		return err
	}
	var doc problem.Document
	if err := json.Unmarshal(reply.GetBody(), &doc); err != nil {
		return err
	}
	field := ""
	if len(doc.Errors) > 0 {
		field = doc.Errors[0].Field
	}
	return sentinel(path.Base(doc.Type), field)
}

func sentinel(slug, field string) error {
	switch slug {
	case "does-not-open":
		return sealer.ErrBinding
	case "unknown-kek":
		return sealer.ErrUnknownKEK
	case "malformed-envelope":
		return sealer.ErrMalformed
	case "unavailable":
		return sealer.ErrUnavailable
	case "invalid-argument":
		switch field {
		case "secret":
			return sealer.ErrInvalidSecret
		case "envelope", "items":
			return sealer.ErrMalformed
		}
		return sealer.ErrInvalidBinding
	}
	return errors.New(slug)
}

func TestServiceKeepsTheSealerContract(t *testing.T) {
	sealertest.Run(t, func(t *testing.T) sealer.Sealer { return wired{start(t, options{})} })
	t.Run("rotation", func(t *testing.T) {
		sealertest.RunRotation(t, func(t *testing.T) (before, after sealer.Sealer) {
			dir := t.TempDir()
			keyset := dir + "/keyset.json"
			_, err := local.AddKEK(keyset)
			require.NoError(t, err)
			old := start(t, options{spaces: spaces{"main": copied(t, keyset)}})
			id, err := local.AddKEK(keyset)
			require.NoError(t, err)
			require.NoError(t, local.SetPrimary(keyset, id))
			return wired{old}, wired{start(t, options{spaces: spaces{"main": copied(t, keyset)}})}
		})
	})
}

// copied returns a sealer with a copy of the current keyset.
func copied(t *testing.T, keyset string) sealer.Sealer {
	t.Helper()
	text := readFile(t, keyset)
	file := t.TempDir() + "/keyset.json"
	writeFile(t, file, text)
	s, err := local.Open(file)
	require.NoError(t, err)
	return s
}
