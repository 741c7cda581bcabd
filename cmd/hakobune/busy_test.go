package main

import (
	"encoding/xml"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// busy serves a directory as the bucket $BUSY, for reading, and answers "slow down" to whoever wants an object under a prefix:
// busy DIR PREFIX.
func busy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: busy DIR PREFIX")
	}
	s := httptest.NewServer(busyStore{ts.MkAbs(args[0]), args[1]})
	ts.Defer(s.Close)
	ts.Setenv("BUSY", "s3:"+s.URL+"/ark")
	ts.Setenv("AWS_ACCESS_KEY_ID", "ark")
	ts.Setenv("AWS_SECRET_ACCESS_KEY", "of-the-harbour")
	ts.Setenv("AWS_REGION", "us-east-1")
}

type busyStore struct{ dir, prefix string }

func (s busyStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/ark"), "/")
	switch {
	case name == "" && r.URL.Query().Has("list-type"):
		s.list(w, r.URL.Query().Get("prefix"))
	case name == "":
		w.WriteHeader(http.StatusOK)
	case strings.HasPrefix(name, s.prefix):
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	default:
		s.get(w, r, name)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%[1]s</Message></Error>", code)
}

type listed struct {
	Key, LastModified string
	Size              int64
}

func (s busyStore) list(w http.ResponseWriter, prefix string) {
	answer := struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		IsTruncated bool
		Contents    []listed
	}{}
	filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(s.dir, path)
		if err != nil || d.IsDir() || !strings.HasPrefix(name, prefix) {
			return err
		}
		info, err := d.Info()
		if err == nil {
			answer.Contents = append(answer.Contents, listed{name, info.ModTime().UTC().Format(time.RFC3339), info.Size()})
		}
		return err
	})
	xml.NewEncoder(w).Encode(answer)
}

func (s busyStore) get(w http.ResponseWriter, r *http.Request, name string) {
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		refuse(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	defer f.Close()
	w.Header().Set("ETag", `"00"`)
	http.ServeContent(w, r, "", time.Now(), f)
}
