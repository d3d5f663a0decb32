package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// Site is what a listener serves beside its API: pages for people, without a session and while the service starts. Its
// requests have an id, a log line and metrics like all others.
type Site interface {
	// Lookup returns who answers a request, nil if it is none of the site's. They are asked for GET and HEAD alone.
	Lookup(r *http.Request) http.Handler
}

// sitePage stands for the operation's name in logs and metrics.
const sitePage = "page"

func (a *API) pages(site Site) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := c.Request()
			page := site.Lookup(r)
			if page == nil {
				return next(c)
			}
			call := CallFrom(r.Context())
			call.Operation, call.routine = sitePage, true
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				c.Response().Header().Set("Allow", http.MethodGet+", "+http.MethodHead)
				return ErrMethodNotAllowed
			}
			page.ServeHTTP(c.Response(), r)
			return nil
		}
	}
}
