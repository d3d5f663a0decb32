package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/problem"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

const requestID = "01JD8Q6Z3VQW2E4R6T8Y0A1S3D"

// secretive is an error that says too much, in all that an error can say.
type secretive struct{ error }

const secret = "sk-0123456789abcdef"

func (s secretive) Error() string { return s.error.Error() + ": " + secret }
func (s secretive) Unwrap() error { return s.error }

func TestEverySentinelOfOursHasAStatus(t *testing.T) {
	for want, sentinels := range map[int][]error{
		400: {problem.ErrInvalid},
		401: {auth.ErrUnauthenticated, models.ErrSessionEnded, models.ErrDataPlaneEnded},
		403: {models.ErrNotMember, models.ErrForbidden, models.ErrNotServed, resolution.ErrKeyRevoked, problem.ErrClientNotAllowed},
		404: {models.ErrNotFound, problem.ErrNoRoute, resolution.ErrNoKey, resolution.ErrUserKeyRequired},
		405: {problem.ErrMethodNotAllowed},
		409: {models.ErrAlreadyExists, models.ErrLastOwner},
		413: {problem.ErrTooLarge, problem.ErrOverMiB},
		415: {problem.ErrMediaType},
		422: {models.ErrIdempotencyReuse, resolution.ErrCallerUnauthenticated, problem.ErrDoesNotOpen, problem.ErrUnknownKEK,
			problem.ErrMalformedEnvelope},
		429: {problem.ErrTooManyRequests},
		500: {problem.ErrInternal, sealer.ErrBinding, sealer.ErrUnknownKEK, sealer.ErrMalformed, sealer.ErrInvalidBinding, sealer.ErrInvalidSecret,
			errors.New("unforeseen"), context.DeadlineExceeded},
		503: {problem.ErrNotReady, problem.ErrBusy, models.ErrUnavailable, sealer.ErrUnavailable, auth.ErrIssuerUnavailable, context.Canceled},
	} {
		for _, sentinel := range sentinels {
			t.Run(sentinel.Error(), func(t *testing.T) {
				bare := problem.From(sentinel, requestID)
				require.Equal(t, want, bare.Status)
				for _, wrapped := range []error{fmt.Errorf("more: %w", sentinel), errors.Join(errors.New("x"), sentinel), secretive{sentinel}} {
					require.Equal(t, bare, problem.From(wrapped, requestID), "its text is of no account")
				}
			})
		}
	}
}

// Which of two sentinels that an error wraps counts is told by the table's order, whatever theirs.
func TestTheFirstRowOfTheTableCounts(t *testing.T) {
	rows := problem.Table()
	for i, first := range rows[:len(rows)-1] {
		for _, second := range rows[i+1:] {
			want := problem.From(first.Sentinel, requestID)
			require.Equal(t, want, problem.From(errors.Join(second.Sentinel, first.Sentinel), requestID))
		}
	}
}

func TestTheTableAndTheDocumentsSayTheSame(t *testing.T) {
	public, err := aikeys.GetSpec()
	require.NoError(t, err)
	forDataPlanes, err := dataplane.GetSpec()
	require.NoError(t, err)
	ofTheSecretsService, err := secrets.GetSpec()
	require.NoError(t, err)
	documents := []*openapi3.T{public, forDataPlanes, ofTheSecretsService}
	documented := map[int]bool{}
	for _, doc := range documents {
		for _, item := range doc.Paths.Map() {
			for _, op := range item.Operations() {
				for status := range op.Responses.Map() {
					var code int
					_, err := fmt.Sscan(status, &code)
					require.NoError(t, err)
					documented[code] = true
				}
			}
		}
	}
	codes, slugs := map[string]bool{}, map[string]string{}
	for _, row := range problem.Table() {
		codes[row.Code] = true
		if row.Status != http.StatusMethodNotAllowed { // which no operation of the documents can answer
			require.True(t, documented[row.Status], "status %d", row.Status)
		}
		title, known := slugs[row.Slug]
		require.True(t, !known || title == row.Title, "one type has one title (RFC 9457, section 3.1.3)")
		slugs[row.Slug] = row.Title
		require.True(t, strings.HasSuffix(row.Detail, ".") && len(row.Detail) < 1024, row.Detail)
	}
	for _, doc := range documents {
		t.Run(doc.Info.Title, func(t *testing.T) {
			listed := doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Extensions["x-extensible-enum"]
			require.Subset(t, listed, slices.Collect(maps.Keys(codes)))
			require.Len(t, listed, len(codes), "the document lists no code that is never answered")
			requireExamplesOfTheTable(t, doc)
		})
	}
}

// requireExamplesOfTheTable asserts that a document's examples of problems are answers of ours.
func requireExamplesOfTheTable(t *testing.T, doc *openapi3.T) {
	t.Helper()
	for name, response := range doc.Components.Responses {
		media := response.Value.Content["application/problem+json"]
		values := []any{}
		if media.Example != nil {
			values = append(values, media.Example)
		}
		for _, example := range media.Examples {
			values = append(values, example.Value.Value)
		}
		require.NotEmpty(t, values, name)
		for _, value := range values {
			requireARow(t, name, value)
		}
	}
}

// requireARow asserts that an example is word for word what the table answers.
func requireARow(t *testing.T, name string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	var example problem.Document
	require.NoError(t, json.Unmarshal(text, &example))
	require.Equal(t, "urn:request:"+example.RequestID, example.Instance, name)
	require.True(t, slices.ContainsFunc(problem.Table(), func(r problem.Row) bool {
		return example.Type == "/problems/"+r.Slug && example.Title == r.Title && example.Status == r.Status && example.Code == r.Code &&
			example.Detail == r.Detail
	}), "%s: %s", name, text)
}

func TestADocumentNamesTheFieldsAtFault(t *testing.T) {
	fields := []problem.Field{{Field: "name", Message: "is taken by an active key"}}
	doc := problem.From(fmt.Errorf("register: %w", &problem.Error{Kind: models.ErrAlreadyExists, Fields: fields}), requestID)
	require.Equal(t, problem.Document{
		Type: "/problems/already-exists", Title: "Already exists", Status: 409, Code: "already_exists", Detail: doc.Detail,
		Instance: "urn:request:" + requestID, RequestID: requestID, Errors: fields,
	}, doc)
	t.Run("but not of a fault of ours", func(t *testing.T) {
		require.Empty(t, problem.From(&problem.Error{Kind: errors.New("x"), Fields: fields}, requestID).Errors)
		require.Empty(t, problem.From(&problem.Error{Kind: models.ErrUnavailable, Fields: fields}, requestID).Errors)
	})
	t.Run("and the error itself says them for the log", func(t *testing.T) {
		require.EqualError(t, problem.Invalid("name", "is required"), "invalid argument; name is required")
		require.ErrorIs(t, problem.Invalid("name", "is required"), problem.ErrInvalid)
	})
}

// Echo's and the generated code's errors carry text that we did not write.
func TestAnErrorOfTheFrameworkGivesItsStatusAlone(t *testing.T) {
	for status, want := range map[int]int{400: 400, 401: 401, 404: 404, 405: 405, 413: 413, 415: 415, 429: 429, 500: 500, 418: 500, 0: 500} {
		doc := problem.From(echo.NewHTTPError(status, secret).SetInternal(errors.New(secret)), requestID)
		require.Equal(t, want, doc.Status)
		text, err := json.Marshal(doc)
		require.NoError(t, err)
		require.NotContains(t, string(text), secret)
	}
}

func TestWriteSetsTheHeadersOfTheStatus(t *testing.T) {
	for name, tc := range map[string]struct {
		err                error
		authenticate, wait string
	}{
		"unauthenticated":     {auth.ErrUnauthenticated, `Bearer realm="aikeys"`, ""},
		"session ended":       {models.ErrSessionEnded, `Bearer realm="aikeys"`, ""},
		"unavailable":         {models.ErrUnavailable, "", "1"},
		"too many":            {problem.ErrTooManyRequests, "", "1"},
		"too many for long":   {fmt.Errorf("x: %w", &problem.Wait{Kind: problem.ErrTooManyRequests, Seconds: 17}), "", "17"},
		"no time to wait":     {&problem.Wait{Kind: problem.ErrTooManyRequests}, "", "1"},
		"a time in the past":  {&problem.Wait{Kind: models.ErrUnavailable, Seconds: -5}, "", "1"},
		"a time for no reply": {&problem.Wait{Kind: models.ErrNotFound, Seconds: 5}, "", ""},
		"internal":            {errors.New(secret), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			recorder := httptest.NewRecorder()
			doc := problem.From(tc.err, requestID)
			problem.Write(recorder, doc, tc.err)
			require.Equal(t, doc.Status, recorder.Code)
			require.Equal(t, "application/problem+json", recorder.Header().Get("Content-Type"))
			require.Equal(t, tc.authenticate, recorder.Header().Get("WWW-Authenticate"))
			require.Equal(t, tc.wait, recorder.Header().Get("Retry-After"))
			var written problem.Document
			require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &written))
			require.Equal(t, doc, written)
			require.NotContains(t, recorder.Body.String(), secret)
		})
	}
}
