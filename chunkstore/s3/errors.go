package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Error is what a store answered, or why it could not be asked. It wraps one of the sentinels of
// chunkstore if it is one of their cases, and holds nothing secret.
type Error struct {
	Op, Name  string // the operation and its object, prefix or bucket
	Code      string // S3's word for the error, if the store answered
	Message   string // the store's own words
	Status    int    // of HTTP, if the store answered
	RequestID string // by which the store's operators find the request

	hint string
	err  error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %v", e.Op, e.Name, e.err)
	if e.Code != "" {
		fmt.Fprintf(&b, " (%s", e.Code)
		if e.Message != "" {
			fmt.Fprintf(&b, ": %s", strings.TrimSuffix(e.Message, "."))
		}
		b.WriteString(")")
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.err }

// Hint returns what the user can do about it, or nothing.
func (e *Error) Hint() string { return e.hint }

// The causes that have words of their own.
var (
	errServer = errors.New("the store answered with an error")
	errFull   = chunkstore.Permanent(errors.New("the store is full or its quota is used up"))
	errRefuse = chunkstore.Permanent(errors.New("the store refused the request"))
)

// translate turns an error of minio-go or of the network into one of this package.
func (s *Store) translate(ctx context.Context, op, name string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", op, name, ctx.Err())
	}
	if r := minio.ToErrorResponse(err); r.Code != "" {
		return s.answered(op, name, r)
	}
	if errors.Is(err, chunkstore.ErrAccess) || errors.Is(err, chunkstore.ErrPermanent) {
		return fmt.Errorf("%s %s: %w", op, name, err)
	}
	return s.unanswered(op, name, err)
}

// answered classifies an answer of the store.
func (s *Store) answered(op, name string, r minio.ErrorResponse) error {
	e := &Error{Op: op, Name: name, Code: r.Code, Message: firstLine(r.Message), Status: r.StatusCode, RequestID: r.RequestID}
	switch r.Code {
	case minio.NoSuchBucket:
		return s.noBucket(op, name)
	case minio.NoSuchKey:
		e.err = chunkstore.ErrNotExist
	case "InvalidObjectState":
		e.err = chunkstore.ErrArchived
	case minio.PreconditionFailed:
		e.err = chunkstore.ErrExist
	case minio.NotImplemented, minio.APINotSupported:
		e.err = chunkstore.ErrUnsupported
	case "RequestTimeTooSkewed":
		s.skewed(e)
	case "ExpiredToken", "ExpiredTokenException":
		s.expired(e)
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		e.err, e.hint = errRefuse, "set the bucket's region"
		if r.Region != "" {
			e.hint += ": the store says it is " + r.Region
		}
	case "XMinioStorageFull", "InsufficientCapacity", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded":
		e.err = errFull
	// Damaged or cut off on the way, or two at once: the next attempt may get through.
	case "RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
		"ConditionalRequestConflict", "OperationAborted", "SlowDown":
		e.err = errServer
	default:
		s.byStatus(e)
	}
	return e
}

// firstLine shortens what may be a proxy's whole page.
func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return strings.ToValidUTF8(line[:min(len(line), 200)], "")
}

// byStatus classifies what has no code of its own. A 404 is not among it: that an object does not
// exist is believed only where the store says just that (NoSuchKey, which minio-go also takes from a
// 404 without a body).
func (s *Store) byStatus(e *Error) {
	switch {
	case e.Status == http.StatusForbidden || e.Status == http.StatusUnauthorized:
		// The answer to a HEAD has no body that would say so.
		if s.wire.skew().Abs() > 5*time.Minute {
			s.skewed(e)
			return
		}
		e.err, e.hint = chunkstore.ErrAccess, accessHint(e.Code)
	case e.Code == "XAdminUserNotFound": // versitygw, with status 404, of an unknown access key
		e.err, e.hint = chunkstore.ErrAccess, accessHint("InvalidAccessKeyId")
	case e.Status == http.StatusPreconditionFailed:
		e.err = chunkstore.ErrExist
	case e.Status == http.StatusNotImplemented:
		e.err = chunkstore.ErrUnsupported
	case e.Status == http.StatusInsufficientStorage:
		e.err = errFull
	case e.Status == http.StatusConflict || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooManyRequests,
		e.Status >= 500, e.Status == 0:
		e.err = errServer
	default:
		e.err = errRefuse
	}
}

func accessHint(code string) string {
	switch code {
	case "InvalidAccessKeyId":
		return "the store does not know this access key: see AWS_ACCESS_KEY_ID, and whether the URL names the right store"
	case "SignatureDoesNotMatch":
		return "the secret key does not belong to the access key: see AWS_SECRET_ACCESS_KEY"
	case "InvalidToken", "InvalidClientTokenId":
		return "the session token does not belong to the access key: see AWS_SESSION_TOKEN"
	}
	return "the key's policy must allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
}

// skewed says by how much the clocks differ, since a signature is only good for some minutes.
func (s *Store) skewed(e *Error) {
	how := "this host's clock and the store's differ"
	switch d := s.wire.skew().Round(time.Second); {
	case d > 0:
		how = fmt.Sprintf("this host's clock is %v ahead of the store's", d)
	case d < 0:
		how = fmt.Sprintf("this host's clock is %v behind the store's", -d)
	}
	e.err, e.hint = chunkstore.Permanent(errors.New(how)), "set the clock, or start time synchronisation"
}

// expired is temporary if fresh credentials can be had, which the next request then does.
func (s *Store) expired(e *Error) {
	if s.config.AccessKey != "" {
		e.err, e.hint = chunkstore.ErrAccess, "the temporary credentials have expired: get new ones"
		return
	}
	s.creds.Expire()
	e.err = errServer
}

func (s *Store) noBucket(op, name string) error {
	return &Error{
		Op: op, Name: name, Code: minio.NoSuchBucket, Status: http.StatusNotFound,
		hint: fmt.Sprintf("there is no bucket %s at %s; `hakobune init --create-bucket` makes it", s.config.Bucket, s.config.Endpoint),
		err:  chunkstore.ErrNoStore,
	}
}

// unanswered explains why a request got no answer.
func (s *Store) unanswered(op, name string, err error) error {
	// The URL in url.Error says what Op and Name do, at length.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	e := &Error{Op: op, Name: name, err: err}
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		dns    *net.DNSError
	)
	switch {
	case errors.As(err, &verify):
		e.err = chunkstore.Permanent(fmt.Errorf("the certificate of %s is not trusted: %w", s.config.Endpoint, verify.Err))
		e.hint = certificateHint(verify.Err)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.err = chunkstore.Permanent(fmt.Errorf("%s does not speak TLS", s.config.Endpoint))
		e.hint = "if that is meant, write s3:http://"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.err = fmt.Errorf("%s refuses connections: %w", s.config.Endpoint, err)
		e.hint = "is the store running, and is the port right?"
	case errors.As(err, &dns):
		e.err = fmt.Errorf("the name %s cannot be resolved: %w", dns.Name, err)
		e.hint = "is the host right, and is there a network?"
	}
	return e
}

func certificateHint(err error) string {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "if the store has a certificate authority of its own, set AWS_CA_BUNDLE to its certificate"
	case errors.As(err, &host):
		return "the URL must name the host as the certificate does"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired, or this host's clock is wrong"
	}
	return ""
}
