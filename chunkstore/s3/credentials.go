package s3

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// newCredentials returns c's own keys, or the chain of places where AWS's tools look.
func newCredentials(c Config) *credentials.Credentials {
	if c.AccessKey != "" {
		return credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken)
	}
	// The metadata service answers at once where there is one. It is never behind a proxy; STS may be.
	role := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
	}}
	files := source{"shared files", &credentials.FileAWSCredentials{Filename: c.CredentialsFile, Profile: c.Profile}}
	if c.OnlyProfile {
		return credentials.New(&chain{sources: []source{files}})
	}
	return credentials.New(&chain{sources: []source{
		{"environment", &credentials.EnvAWS{}}, files, {"role", &credentials.IAM{Client: role, Region: c.Region}},
	}})
}

// chain asks its sources in turn. Unlike credentials.Chain it does not go on without credentials
// when it finds none, but says what each source answered.
type chain struct {
	sources []source
	current credentials.Provider
}

type source struct {
	name string
	credentials.Provider
}

var _ credentials.Provider = (*chain)(nil)

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var answers error
	for _, s := range c.sources {
		v, err := s.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.current = s.Provider
			return v, nil
		}
		answers = errors.Join(answers, fmt.Errorf("%s: %w", s.name, plain(err)))
	}
	return credentials.Value{}, &Error{
		Op: "find", Name: "credentials", hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
		err: fmt.Errorf("%w: there are none:\n%w", chunkstore.ErrAccess, answers),
	}
}

// plain takes from an error what is not worth showing.
func plain(err error) error {
	var u *url.Error
	switch {
	case err == nil:
		return errors.New("none")
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("no such file")
	case errors.As(err, &u):
		return u.Err
	}
	return err
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool { return c.current == nil || c.current.IsExpired() }
