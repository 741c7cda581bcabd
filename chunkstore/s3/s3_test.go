package s3_test

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// Every store is held to the contract; what one lacks stands here. (Swift answers that it has no
// conditional writes, which the contract allows.)
func TestContract(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		start func(testing.TB) *testserver.Server
		weak  []storetest.Weakness
	}{
		"MinIO":    {start: testserver.MinIO},
		"MinIOTLS": {start: testserver.MinIOTLS},
		// It removes the directories above a deleted object, and refuses (409) a put that needs one just then.
		"VersityGW": {start: testserver.VersityGW, weak: []storetest.Weakness{storetest.Busy}},
		"Swift":     {start: testserver.Swift},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := tc.start(t)
			bucket := newBucket(t, server)
			storetest.Run(t, func(t *testing.T) chunkstore.Backend {
				c := bucket
				c.Prefix = strings.ToLower(t.Name()) + "/" + unique()
				return open(t, c)
			}, tc.weak...)
		})
	}
}

func unique() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// config returns the way to a bucket that does not exist yet.
func config(server *testserver.Server) s3.Config {
	return s3.Config{
		Endpoint: server.Endpoint, Insecure: !server.TLS, CAFile: server.CAFile, Bucket: "hakobune-" + unique(),
		AccessKey: server.AccessKey, SecretKey: server.SecretKey,
	}
}

func newBucket(t *testing.T, server *testserver.Server) s3.Config {
	t.Helper()
	c := config(server)
	if err := open(t, c).CreateBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t *testing.T, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
