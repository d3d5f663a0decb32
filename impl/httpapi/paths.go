package httpapi

import (
	"strings"

	"github.com/labstack/echo/v4"
)

// SessionDefault stands in a path for the session's own customer or project.
const SessionDefault = "-"

// CanonicalPaths rewrites, before routing, the other spellings of a project's resources to the one in the document: the
// short form /v1/aikeys…, and empty segments as in /v1/customers//projects//aikeys.
func CanonicalPaths(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		u.Path = canonicalPath(u.Path)
		if u.RawPath != "" {
			u.RawPath = canonicalPath(u.RawPath)
		}
		return next(c)
	}
}

func canonicalPath(path string) string {
	const short, customers, projects = "/v1/aikeys", "/v1/customers/", "/projects/"
	if rest, ok := strings.CutPrefix(path, short); ok && (rest == "" || rest[0] == '/') {
		return customers + SessionDefault + projects + SessionDefault + "/aikeys" + rest
	}
	rest, ok := strings.CutPrefix(path, customers)
	if !ok {
		return path
	}
	if strings.HasPrefix(rest, projects) {
		rest = SessionDefault + rest
	}
	customer, rest, ok := strings.Cut(rest, projects)
	if !ok {
		return path
	}
	if strings.HasPrefix(rest, "/") {
		rest = SessionDefault + rest
	}
	return customers + customer + projects + rest
}
