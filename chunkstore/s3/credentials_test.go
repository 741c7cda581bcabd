package s3_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// nothing makes the environment one without credentials.
func nothing(t *testing.T) {
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
	} {
		t.Setenv(name, "")
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/") // else the instance's role is asked for
}

func works(t *testing.T, c s3.Config) {
	t.Helper()
	b := open(t, c)
	if err := b.Put(t.Context(), "p/x", []byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := b.Stat(t.Context(), "p/x"); err != nil {
		t.Error(err)
	}
}

// The keys are found where AWS's tools look for them.
func TestCredentials(t *testing.T) {
	server := testserver.MinIO(t)
	c := newBucket(t, server)
	c.AccessKey, c.SecretKey = "", ""

	t.Run("none", func(t *testing.T) {
		nothing(t)
		_, err := s3.Open(t.Context(), c)
		wantError(t, "open", err, chunkstore.ErrAccess, "shared files: no such file", "AWS_ACCESS_KEY_ID")
	})
	t.Run("environment", func(t *testing.T) {
		nothing(t)
		t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
		works(t, c)
	})
	t.Run("session token", func(t *testing.T) {
		nothing(t)
		sts, err := credentials.NewSTSAssumeRole("http://"+server.Endpoint, credentials.STSAssumeRoleOptions{
			AccessKey: server.AccessKey, SecretKey: server.SecretKey, DurationSeconds: 900,
		})
		if err != nil {
			t.Fatal(err)
		}
		v, err := sts.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
		// This part of the server may start later than the one that keeps objects.
		for end := time.Now().Add(time.Minute); err != nil && strings.Contains(err.Error(), "not initialized") && time.Now().Before(end); {
			time.Sleep(200 * time.Millisecond)
			v, err = sts.GetWithContext(&credentials.CredContext{Client: http.DefaultClient})
		}
		if err != nil {
			t.Fatal(err)
		}
		temporary := c
		temporary.AccessKey, temporary.SecretKey, temporary.SessionToken = v.AccessKeyID, v.SecretAccessKey, v.SessionToken
		works(t, temporary)
		temporary.SessionToken = "wrong"
		if err := open(t, temporary).Put(t.Context(), "p/x", nil); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("with a wrong session token: %v", err)
		}
	})
	t.Run("shared file", func(t *testing.T) {
		nothing(t)
		content := fmt.Sprintf("[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"+
			"[backup]\naws_access_key_id = %s\naws_secret_access_key = %s\n", server.AccessKey, server.SecretKey)
		file := filepath.Join(t.TempDir(), "keys")
		for _, f := range []string{file, os.Getenv("AWS_SHARED_CREDENTIALS_FILE")} {
			if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		profile := c
		profile.Profile = "backup"
		works(t, profile)
		profile.CredentialsFile = file
		works(t, profile)
		if err := open(t, c).Put(t.Context(), "p/x", nil); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("with the default profile: %v", err)
		}
		t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "nothing")
		profile.OnlyProfile = true
		works(t, profile)
	})
	t.Run("role", func(t *testing.T) {
		nothing(t)
		var asked atomic.Int32
		role := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			fmt.Fprintf(w, `{"AccessKeyId": %q, "SecretAccessKey": %q, "Expiration": %q}`,
				server.AccessKey, server.SecretKey, time.Now().Add(2*time.Second).UTC().Format(time.RFC3339Nano))
		}))
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://"+role+"/")
		b := open(t, c)
		for range 2 {
			if err := b.Put(t.Context(), "p/x", nil); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Second) // the credentials expire
		}
		if asked.Load() < 2 {
			t.Error("expired credentials were not asked for again")
		}
	})
}

// Temporary credentials that the store no longer takes are fetched again.
func TestExpiredToken(t *testing.T) {
	nothing(t)
	var asked atomic.Int32
	role := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId": "key%d", "SecretAccessKey": "x", "Expiration": %q}`,
			asked.Add(1), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://"+role+"/")
	c := canned(t, http.StatusBadRequest, "ExpiredToken")
	c.AccessKey, c.SecretKey = "", ""
	err := open(t, c).Put(t.Context(), "p/x", nil)
	wantError(t, "put", err, nil, "ExpiredToken", "")
	if asked.Load() != 1 {
		t.Fatalf("asked %d times before the refusal", asked.Load())
	}
	b := chunkstore.Retry(open(t, c), chunkstore.RetryOptions{Initial: time.Millisecond, MaxElapsed: time.Second})
	if err := b.Put(t.Context(), "p/x", nil); err == nil {
		t.Error("a store that always refuses took an object")
	}
	if asked.Load() < 3 {
		t.Errorf("asked %d times", asked.Load())
	}
}
