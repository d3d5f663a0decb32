package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"
)

// upstreamError is a failure between us and the provider. Its text is one of ours: what the network said may quote the
// provider's answer, and so anything.
type upstreamError struct {
	kind  error
	cause string
}

// Error tells what failed, in words of ours.
func (e *upstreamError) Error() string { return e.kind.Error() + ": " + e.cause }

// Unwrap returns errUnreachable or errTimeout.
func (e *upstreamError) Unwrap() error { return e.kind }

// upstream turns what the transport says into one of ours.
func upstream(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return &upstreamError{errTimeout, "timeout"}
	}
	return &upstreamError{errUnreachable, kindOf(err)}
}

func kindOf(err error) string {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		alert       tls.AlertError
		record      tls.RecordHeaderError
		dial        *net.OpError
	)
	switch {
	case errors.As(err, &dns):
		return "name not resolved"
	case errors.As(err, &certificate), errors.As(err, &authority):
		return "certificate not trusted"
	case errors.As(err, &alert), errors.As(err, &record):
		return "TLS handshake failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &dial):
		return "connection failed"
	}
	return "answer not understood"
}

// causeOf is what the log says of why we refused.
func causeOf(err error) string {
	var fromProvider *upstreamError
	switch {
	case errors.As(err, &fromProvider):
		return fromProvider.Error()
	case errors.Is(err, context.Canceled):
		return "caller gone"
	}
	return rowOf(err).slug
}
