package s3

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Config says where a repository lies and how to get there. Endpoint and Bucket are needed; all else
// has a default. Printing or logging a Config gives its URL and nothing secret.
type Config struct {
	Endpoint string // host or host:port
	Insecure bool   // plain HTTP. What is stored is encrypted anyway; names and sizes are not hidden
	Bucket   string
	Prefix   string // before every object's name, without slashes at its ends; may be empty

	// AccessKey, SecretKey and, for temporary credentials, SessionToken. Where AccessKey is empty
	// they come from AWS's usual places, in this order: the environment (AWS_ACCESS_KEY_ID ...), the
	// shared files with Profile, a web identity token, the container's or the instance's role.
	AccessKey, SecretKey, SessionToken string

	Profile         string // section of the shared files; default: AWS_PROFILE, or "default"
	OnlyProfile     bool   // the keys are in the section Profile, and nowhere else is looked
	CredentialsFile string // instead of ~/.aws/config and ~/.aws/credentials

	Region string // default: the store is asked
	Lookup Lookup // default: LookupAuto
	CAFile string // PEM certificates to trust beside the system's

	// DataClass is the class of storage that packs of data are put into, in the store's words: STANDARD_IA,
	// GLACIER_IR, DEEP_ARCHIVE. Everything else stays where every command can read it at once. Empty: the store's default.
	DataClass string
	NewLocked bool // CreateBucket makes a bucket in which objects can be locked

	// Timeout is how long a connection may stand still before the attempt is given up, and how long
	// a store may think about an answer. Default one minute. It does not bound a transfer that moves.
	Timeout time.Duration

	// UploadRate and DownloadRate limit what goes over the wire, in bytes per second, over all
	// connections together and smoothly; 0 means no limit.
	UploadRate, DownloadRate int64
}

// Lookup says how a bucket stands in a request.
type Lookup string

// The ways to address a bucket.
const (
	LookupAuto Lookup = "auto" // also the zero value: DNS for the large providers that want it, else path
	LookupPath Lookup = "path" // https://host/bucket/name
	LookupDNS  Lookup = "dns"  // https://bucket.host/name
)

const scheme = "s3:"

// IsURL reports whether the location of a repository is for this package.
func IsURL(location string) bool { return strings.HasPrefix(location, scheme) }

// ParseURL understands "s3:https://host/bucket/prefix", "s3:http://..." and, with HTTPS, the short
// "s3:host/bucket/prefix". It refuses keys in the URL, because URLs are shown and logged.
func ParseURL(location string) (Config, error) {
	c, err := parseURL(location)
	if err != nil {
		return Config{}, fmt.Errorf("repository %s: %w", redactUser(location), err)
	}
	return c, nil
}

func parseURL(location string) (Config, error) {
	rest, ok := strings.CutPrefix(location, scheme)
	if !ok || rest == "" {
		return Config{}, errors.New("want s3:https://host/bucket or s3:https://host/bucket/prefix")
	}
	if strings.HasPrefix(rest, "//") {
		return Config{}, errors.New("\"s3://\" does not say which host; write s3:https://host/bucket/prefix")
	}
	if !strings.Contains(rest, "://") {
		rest = "https://" + rest
	}
	u, err := url.Parse(rest)
	if err != nil {
		return Config{}, errors.New("the part after \"s3:\" is not a URL") // url's error would repeat what it holds
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return Config{}, fmt.Errorf("scheme %q is neither https nor http", u.Scheme)
	case u.User != nil:
		return Config{}, errors.New("keys do not belong into the URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return Config{}, errors.New("a query or fragment has no meaning here")
	case u.Hostname() == "":
		return Config{}, errors.New("the host is missing")
	}
	bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	c := Config{Endpoint: u.Host, Insecure: u.Scheme == "http", Bucket: bucket, Prefix: prefix}
	return c, c.check()
}

// redactUser hides what may be a password before the host of a location that is refused.
func redactUser(location string) string {
	if i := strings.LastIndexByte(location, '@'); i >= 0 {
		return scheme + "..." + location[i:]
	}
	return location
}

// check refuses what cannot work before the first request.
func (c Config) check() error {
	if c.Endpoint == "" || strings.ContainsAny(c.Endpoint, "/@?#") {
		return fmt.Errorf("endpoint %q: want host or host:port", c.Endpoint)
	}
	if c.Bucket == "" {
		return errors.New("the bucket is missing; write s3:https://host/bucket")
	}
	if len(c.Bucket) < 3 || len(c.Bucket) > 63 || strings.IndexFunc(c.Bucket, notInBucket) >= 0 {
		return fmt.Errorf("bucket %q: want 3 to 63 letters, digits, '.', '-' or '_'", c.Bucket)
	}
	if c.Prefix != "" {
		bad := func(e string) bool { return e == "" || e == "." || e == ".." }
		if len(c.Prefix) > 512 || slices.ContainsFunc(strings.Split(c.Prefix, "/"), bad) || strings.ContainsFunc(c.Prefix, control) {
			return fmt.Errorf("prefix %q: empty, \".\" or \"..\" elements, control characters or more than 512 bytes", c.Prefix)
		}
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		return errors.New("of access key and secret key only one is set")
	}
	if !checkClass(c.DataClass) {
		return fmt.Errorf("storage class %q: want capital letters, as GLACIER_IR", c.DataClass)
	}
	if !slices.Contains([]Lookup{"", LookupAuto, LookupPath, LookupDNS}, c.Lookup) {
		return fmt.Errorf("bucket lookup %q: want auto, path or dns", string(c.Lookup))
	}
	return nil
}

// notInBucket allows more than AWS does for new buckets, because old ones and other stores do.
func notInBucket(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(".-_", r)
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// URL returns the location that ParseURL takes.
func (c Config) URL() string {
	u := url.URL{Scheme: "https", Host: c.Endpoint, Path: "/" + c.Bucket}
	if c.Insecure {
		u.Scheme = "http"
	}
	if c.Prefix != "" {
		u.Path += "/" + c.Prefix
	}
	return scheme + u.String()
}

// Format implements fmt.Formatter for every verb: it writes the URL.
func (c Config) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.URL()) }

// LogValue implements slog.LogValuer.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.URL()) }

// MarshalText implements encoding.TextMarshaler.
func (c Config) MarshalText() ([]byte, error) { return []byte(c.URL()), nil }

// key returns the object's name in the bucket.
func (c Config) key(name string) string {
	if c.Prefix == "" {
		return name
	}
	return c.Prefix + "/" + name
}

var (
	_ fmt.Formatter  = Config{}
	_ slog.LogValuer = Config{}
	_ error          = (*Error)(nil)

	_ chunkstore.Backend = (*Store)(nil)
	_ chunkstore.Creator = (*Store)(nil)
)
