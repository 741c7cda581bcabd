package s3_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/s3"
)

func TestParseURL(t *testing.T) {
	for location, want := range map[string]s3.Config{
		"s3:https://host/bucket":                        {Endpoint: "host", Bucket: "bucket"},
		"s3:https://host/bucket/":                       {Endpoint: "host", Bucket: "bucket"},
		"s3:https://host:9000/bucket/a/b":               {Endpoint: "host:9000", Bucket: "bucket", Prefix: "a/b"},
		"s3:http://127.0.0.1:9000/bucket/pre.fix/":      {Endpoint: "127.0.0.1:9000", Insecure: true, Bucket: "bucket", Prefix: "pre.fix"},
		"s3:http://[::1]:9000/bucket":                   {Endpoint: "[::1]:9000", Insecure: true, Bucket: "bucket"},
		"s3:s3.eu-central-1.amazonaws.com/bucket/x":     {Endpoint: "s3.eu-central-1.amazonaws.com", Bucket: "bucket", Prefix: "x"},
		"s3:https://host/bucket/with%20space":           {Endpoint: "host", Bucket: "bucket", Prefix: "with space"},
		"s3:https://host/Old_Bucket.with-dots/prefix/a": {Endpoint: "host", Bucket: "Old_Bucket.with-dots", Prefix: "prefix/a"},
	} {
		got, err := s3.ParseURL(location)
		if err != nil {
			t.Errorf("%s: %v", location, err)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", location, got, want)
		}
		if again, err := s3.ParseURL(got.URL()); err != nil || again != got {
			t.Errorf("%s gives %s, which gives %s, %v", location, got.URL(), again, err)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	for location, want := range map[string]string{
		"s3:":                             "want s3:https://host/bucket",
		"/some/dir":                       "want s3:https://host/bucket",
		"s3://bucket/prefix":              "does not say which host",
		"s3:ftp://host/bucket":            "neither https nor http",
		"s3:https://host":                 "bucket is missing",
		"s3:https://host/":                "bucket is missing",
		"s3:https:///bucket":              "host is missing",
		"s3:https://host/ab":              "3 to 63",
		"s3:https://host/buc:ket":         "3 to 63",
		"s3:https://host/bucket?x=y":      "no meaning",
		"s3:https://host/bucket#x":        "no meaning",
		"s3:https://host/bucket/a//b":     "empty",
		"s3:https://host/bucket/../x":     "\"..\"",
		"s3:https://host/bucket/%0a":      "control",
		"s3:https://key:hush@host/bucket": "do not belong",
		"s3:https://host:x/key:hush@y":    "not a URL",
		"s3:key:hush@host/bucket":         "do not belong",
	} {
		_, err := s3.ParseURL(location)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want one with %q", location, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := s3.Config{Endpoint: "127.0.0.1:1", Bucket: "bucket", AccessKey: "key", SecretKey: "hush"}
	for _, lookup := range []s3.Lookup{"", "auto", "path", "dns"} {
		c := good
		c.Lookup = lookup
		open(t, c)
	}
	for want, change := range map[string]func(*s3.Config){
		"only one is set":     func(c *s3.Config) { c.SecretKey = "" },
		"bucket lookup":       func(c *s3.Config) { c.Lookup = "virtual" },
		"bucket is missing":   func(c *s3.Config) { c.Bucket = "" },
		"want host":           func(c *s3.Config) { c.Endpoint = "https://host" },
		"CA certificates":     func(c *s3.Config) { c.CAFile = "missing.pem" },
		"no PEM certificate":  func(c *s3.Config) { c.CAFile = "config_test.go" },
		"\"..\" elements":     func(c *s3.Config) { c.Prefix = "a/.." },
		"prefix \"/a\"":       func(c *s3.Config) { c.Prefix = "/a" },
		"more than 512 bytes": func(c *s3.Config) { c.Prefix = strings.Repeat("a", 513) },
	} {
		c := good
		change(&c)
		if _, err := s3.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want an error with %q", err, want)
		}
	}
}

// However a Config gets into a message, its keys do not.
func TestConfigHidesKeys(t *testing.T) {
	c := s3.Config{Endpoint: "host", Bucket: "bucket", AccessKey: "hush1", SecretKey: "hush2", SessionToken: "hush3"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", c, "pointer", &c)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", c, "pointer", &c)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
		fmt.Fprintf(&log, verb+verb+verb, c, &c, struct{ C s3.Config }{c})
	}
	marshaled, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	log.Write(marshaled)
	if strings.Contains(log.String(), "hush") {
		t.Error(log.String())
	}
	if diff := cmp.Diff("s3:https://host/bucket", fmt.Sprint(c)); diff != "" {
		t.Error(diff)
	}
}
