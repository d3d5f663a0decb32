package docsite

import "net/http"

// recorder is a ResponseWriter that keeps the headers and drops the rest.
type recorder struct{ header http.Header }

// Header returns the headers.
func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}

// Write drops the body.
func (r *recorder) Write(body []byte) (int, error) { return len(body), nil }

// WriteHeader drops the status.
func (r *recorder) WriteHeader(int) {}
