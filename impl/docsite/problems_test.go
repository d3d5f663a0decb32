package docsite_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	genaikeys "github.com/agentrouter/aikeys/gen/aikeys"
	gendataplane "github.com/agentrouter/aikeys/gen/dataplane"
	gensecrets "github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/impl/aikeys"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/resolution"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// tables returns the tables of all APIs.
func tables() []problem.Table {
	return []problem.Table{aikeys.Problems(), dataplane.Problems(), secrets.Problems()}
}

func TestProblemStatuses(t *testing.T) {
	everywhere := map[error]int{
		problem.ErrInvalid: 400, httpapi.ErrNoRoute: 404, httpapi.ErrMethodNotAllowed: 405, httpapi.ErrTooLarge: 413, httpapi.ErrMediaType: 415,
		httpapi.ErrTooManyRequests: 429, httpapi.ErrInternal: 500, errors.New("unforeseen"): 500, context.DeadlineExceeded: 500,
		httpapi.ErrNotReady: 503, context.Canceled: 503,
	}
	withStore := map[error]int{
		auth.ErrUnauthenticated: 401, models.ErrSessionEnded: 401, models.ErrDataPlaneEnded: 401, models.ErrNotMember: 403, models.ErrNotFound: 404,
		sealer.ErrBinding: 500, sealer.ErrUnknownKEK: 500, sealer.ErrMalformed: 500, sealer.ErrInvalidBinding: 500, sealer.ErrInvalidSecret: 500,
		models.ErrUnavailable: 503, sealer.ErrUnavailable: 503, auth.ErrIssuerUnavailable: 503,
	}
	for name, tc := range map[string]struct {
		table problem.Table
		want  []map[error]int
	}{
		"aikeys": {aikeys.Problems(), []map[error]int{everywhere, withStore, {
			models.ErrForbidden: 403, models.ErrAlreadyExists: 409, models.ErrLastOwner: 409, models.ErrIdempotencyReuse: 422,
		}}},
		"dataplane": {dataplane.Problems(), []map[error]int{everywhere, withStore, {
			models.ErrNotServed: 403, resolution.ErrKeyRevoked: 403, resolution.ErrNoKey: 404, resolution.ErrUserKeyRequired: 404,
			resolution.ErrCallerUnauthenticated: 422,
		}}},
		"secrets": {secrets.Problems(), []map[error]int{everywhere}},
	} {
		for _, statuses := range tc.want {
			for err, status := range statuses {
				require.Equal(t, status, tc.table.Find(fmt.Errorf("wrapped: %w", err)).Status, "%s: %s", name, err)
			}
		}
	}
}

func TestProblemsMatchDocuments(t *testing.T) {
	var documents []*openapi3.T
	for _, get := range []func() (*openapi3.T, error){genaikeys.GetSpec, gendataplane.GetSpec, gensecrets.GetSpec} {
		document, err := get()
		require.NoError(t, err)
		documents = append(documents, document)
	}
	documented := map[string]bool{} // statuses
	for _, document := range documents {
		for _, item := range document.Paths.Map() {
			for _, op := range item.Operations() {
				for status := range op.Responses.Map() {
					documented[status] = true
				}
			}
		}
	}
	rows := slices.Concat(tables()...)
	var codes []string
	titles := map[string]string{} // by slug
	for _, row := range rows {
		if !slices.Contains(codes, row.Code) {
			codes = append(codes, row.Code)
		}
		if row.Status != http.StatusMethodNotAllowed { // no documented operation answers it
			require.True(t, documented[fmt.Sprint(row.Status)], "status %d", row.Status)
		}
		title, known := titles[row.Slug]
		require.True(t, !known || title == row.Title, "one type has one title (RFC 9457, section 3.1.3)")
		titles[row.Slug] = row.Title
		require.True(t, strings.HasSuffix(row.Detail, ".") && len(row.Detail) < 1024, row.Detail)
	}
	for _, document := range documents {
		t.Run(document.Info.Title, func(t *testing.T) {
			listed := document.Components.Schemas["Problem"].Value.Properties["code"].Value.Extensions["x-extensible-enum"]
			require.ElementsMatch(t, listed, codes)
			for name, response := range document.Components.Responses {
				media := response.Value.Content[problem.ContentType]
				examples := []any{media.Example}
				for _, example := range media.Examples {
					examples = append(examples, example.Value.Value)
				}
				examples = slices.DeleteFunc(examples, func(value any) bool { return value == nil })
				require.NotEmpty(t, examples, name)
				for _, value := range examples {
					text, err := json.Marshal(value)
					require.NoError(t, err)
					var example problem.Document
					require.NoError(t, json.Unmarshal(text, &example))
					example.Errors = nil
					require.True(t, slices.ContainsFunc(rows, func(row problem.Row) bool {
						want := row.Document(example.RequestID)
						return fmt.Sprint(want) == fmt.Sprint(example)
					}), "%s: %s is no answer of the tables", name, text)
				}
			}
		})
	}
}
