package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/internal/problem"
)

// Example is an answer that the document shows for an operation.
type Example struct {
	Status int
	Name   string // empty if it is the only one of its status
	header http.Header
	body   []byte
}

// ExamplesOf returns the examples of an operation's answers, by status and name.
func ExamplesOf(op *openapi3.Operation) ([]Example, error) {
	var found []Example
	for code, response := range op.Responses.Map() {
		status, err := strconv.Atoi(code)
		if err != nil {
			continue // "default" stands for any status
		}
		for mediaType, media := range response.Value.Content {
			values := map[string]any{}
			for name, ref := range media.Examples {
				values[name] = ref.Value.Value
			}
			if media.Example != nil {
				values[""] = media.Example
			}
			for name, value := range values {
				body, err := json.Marshal(value)
				if err != nil {
					return nil, fmt.Errorf("example %s of %s: %w", name, op.OperationID, err)
				}
				header := exampleHeader(response.Value)
				header.Set("Content-Type", mediaType)
				if object, ok := value.(map[string]any); ok && mediaType == problem.ContentType {
					header.Set("X-Request-Id", fmt.Sprint(object["request_id"])) // as the problem has it
				}
				found = append(found, Example{status, name, header, body})
			}
		}
	}
	slices.SortFunc(found, func(a, b Example) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Name, b.Name))
	})
	return found, nil
}

func exampleHeader(response *openapi3.Response) http.Header {
	header := http.Header{}
	for name, ref := range response.Headers {
		if ref.Value.Example != nil {
			header.Set(name, fmt.Sprint(ref.Value.Example))
		}
	}
	return header
}

// preference matches the preferences "code" and "example" in a header Prefer (RFC 7240).
var preference = regexp.MustCompile(`(?i)(?:^|[,;])\s*(code|example)\s*=\s*"?([^",;\s]*)"?`)

// answerByExample returns a middleware that answers with an example instead of the handler, if the header Prefer asks for one:
// "code=403", "example=not_an_owner", or both. It stands behind authentication and validation.
func answerByExample(op *openapi3.Operation) (echo.MiddlewareFunc, error) {
	examples, err := ExamplesOf(op)
	if err != nil {
		return nil, err
	}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			wanted := map[string]string{}
			for _, found := range preference.FindAllStringSubmatch(strings.Join(c.Request().Header.Values("Prefer"), ","), -1) {
				wanted[strings.ToLower(found[1])] = found[2]
			}
			if len(wanted) == 0 {
				return next(c)
			}
			chosen, err := chooseExample(examples, wanted)
			if err != nil {
				return err
			}
			header := c.Response().Header()
			maps.Copy(header, chosen.header)
			for _, name := range slices.Sorted(maps.Keys(wanted)) {
				header.Add("Preference-Applied", name+"="+wanted[name])
			}
			return c.Blob(chosen.Status, header.Get("Content-Type"), chosen.body)
		}
	}, nil
}

// chooseExample returns the first example that has the wanted code and name. Its error lists the codes or names that there are.
func chooseExample(examples []Example, wanted map[string]string) (Example, error) {
	var statuses, names []string
	for _, e := range examples {
		status := strconv.Itoa(e.Status)
		if code, ok := wanted["code"]; ok && code != status {
			statuses = append(statuses, status)
			continue
		}
		if name, ok := wanted["example"]; ok && name != e.Name {
			names = append(names, cmp.Or(e.Name, status+" without a name"))
			continue
		}
		return e, nil
	}
	if len(names) > 0 {
		return Example{}, problem.Invalid("Prefer", "has an example that does not exist; there are "+strings.Join(slices.Compact(names), ", "))
	}
	return Example{}, problem.Invalid("Prefer", "has a code that this method does not answer; it answers "+strings.Join(slices.Compact(statuses), ", "))
}
