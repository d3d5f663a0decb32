package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/problem"
)

func TestTable(t *testing.T) {
	const requestID, secret = "01JD8Q6Z3VQW2E4R6T8Y0A1S3D", "sk-0123456789abcdef"
	errSession, errMissing := errors.New("session ended"), errors.New("not found")
	errBusy, errInternal := errors.New("busy"), errors.New("internal")
	table := problem.Table{
		{Err: problem.ErrInvalid, Status: 400, Code: "invalid_argument", Slug: "invalid-argument", Title: "Invalid", Detail: "See errors."},
		{Err: errBusy, Status: 503, Code: "unavailable", Slug: "unavailable", Title: "Unavailable", Detail: "Busy."},
		{Err: errSession, Status: 401, Code: "unauthenticated", Slug: "unauthenticated", Title: "Unauthenticated", Detail: "Ended."},
		{Err: errMissing, Status: 404, Code: "not_found", Slug: "not-found", Title: "Not found", Detail: "Missing."},
		{Err: context.Canceled, Status: 503, Code: "unavailable", Slug: "unavailable", Title: "Unavailable", Detail: "Given up."},
		{Err: errInternal, Status: 500, Code: "internal", Slug: "internal", Title: "Internal", Detail: "Our fault."},
	}
	for name, tc := range map[string]struct {
		err  error
		want problem.Row
	}{
		"a sentinel":             {errMissing, table[3]},
		"a wrapped sentinel":     {fmt.Errorf("more: %w", errMissing), table[3]},
		"a joined sentinel":      {errors.Join(errors.New("x"), errMissing), table[3]},
		"two: the first row":     {errors.Join(errMissing, errBusy), table[1]},
		"an error without a row": {context.DeadlineExceeded, table[5]},
	} {
		t.Run(name, func(t *testing.T) {
			want := tc.want.Document(requestID)
			require.Equal(t, want, table.Document(tc.err, requestID))
			require.Equal(t, want, table.Document(fmt.Errorf("%w: %s", tc.err, secret), requestID), "an error's own text does not reach the document")
			require.Equal(t, "urn:request:"+requestID, want.Instance)
			require.Equal(t, want.Type, "/problems/"+tc.want.Slug)
		})
	}
	t.Run("by status", func(t *testing.T) {
		require.Equal(t, table[1], table.FindStatus(503))
		require.Equal(t, table[5], table.FindStatus(418))
	})
	t.Run("fields", func(t *testing.T) {
		fields := []problem.Field{{Field: "name", Message: "is taken"}}
		require.Equal(t, fields, table.Document(fmt.Errorf("register: %w", &problem.Error{Kind: errMissing, Fields: fields}), requestID).Errors)
		require.Empty(t, table.Document(&problem.Error{Kind: errors.New("x"), Fields: fields}, requestID).Errors, "not of an internal error")
		require.Empty(t, table.Document(&problem.Error{Kind: errBusy, Fields: fields}, requestID).Errors, "nor of another 5xx")
		require.EqualError(t, problem.Invalid("name", "is required"), "invalid argument; name is required")
		require.ErrorIs(t, problem.Invalid("name", "is required"), problem.ErrInvalid)
	})
	t.Run("types", func(t *testing.T) {
		types := problem.Types(table, table[:1])
		var slugs []string
		for _, found := range types {
			slugs = append(slugs, found.Slug)
		}
		require.Equal(t, []string{"invalid-argument", "unauthenticated", "not-found", "internal", "unavailable"}, slugs)
		require.Equal(t, []string{"Busy.", "Given up."}, types[4].Details)
		require.Equal(t, []string{"See errors."}, types[0].Details)
	})
	for name, tc := range map[string]struct {
		err                error
		authenticate, wait string
	}{
		"unauthenticated":     {errSession, `Bearer realm="aikeys"`, ""},
		"unavailable":         {errBusy, "", "1"},
		"a time to wait":      {fmt.Errorf("x: %w", &problem.Wait{Kind: errBusy, Seconds: 17}), "", "17"},
		"no time to wait":     {&problem.Wait{Kind: errBusy}, "", "1"},
		"a time in the past":  {&problem.Wait{Kind: errBusy, Seconds: -5}, "", "1"},
		"a time for no reply": {&problem.Wait{Kind: errMissing, Seconds: 5}, "", ""},
		"internal":            {errors.New(secret), "", ""},
	} {
		t.Run("written: "+name, func(t *testing.T) {
			recorder := httptest.NewRecorder()
			doc := table.Document(tc.err, requestID)
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
