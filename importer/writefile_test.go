package importer_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/importer"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	write := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			_, e := io.WriteString(w, text)
			return errors.Join(e, err)
		}
	}
	for _, text := range []string{"one", "two"} {
		if err := importer.WriteFile(name, write(text, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := importer.WriteFile(link, write("three", nil)); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("cause")
	if err := importer.WriteFile(name, write("half", cause)); !errors.Is(err, cause) {
		t.Errorf("a write that fails: %v", err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "three" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if to, err := os.Readlink(link); err != nil || to != "file" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestWriteFileStraight: what is no file stays what it is; root must not make a file of a device.
func TestWriteFileStraight(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- importer.WriteFile(name, func(w io.Writer) error { _, err := io.WriteString(w, "through"); return err })
	}()
	b, err := os.ReadFile(name)
	if err := errors.Join(err, <-done); err != nil || string(b) != "through" {
		t.Errorf("came through: %q, %v", b, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe is now %v, %v", info.Mode(), err)
	}
}
