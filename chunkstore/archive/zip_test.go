package archive_test

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

func TestWriteZip(t *testing.T) {
	r := newRepository(t)
	st, _ := save(t, r, changes(), nil)
	var b bytes.Buffer
	lost, err := archive.WriteZip(t.Context(), r, st, "", &b)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range z.File {
		rd, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(rd) // the reader compares the CRC
		if err != nil {
			t.Errorf("%q: %v", f.Name, err)
		}
		got = append(got, fmt.Sprintf("%v %d %q %d", f.Mode(), len(content), f.Name, f.Modified.Unix()))
	}
	const at = 1_763_000_000
	want := []string{
		fmt.Sprintf("dgtrwxr-xr-x 0 %q %d", "dir/", at),
		fmt.Sprintf("-rw-r--r-- 0 %q %d", "dir/empty", at),
		fmt.Sprintf("Lrwxrwxrwx 601 %q %d", "dir/link", at),
		fmt.Sprintf("-rw-r--r-- 300000 %q %d", "file", at),
		fmt.Sprintf("-rw-r--r-- 3000 %q %d", "hard1", at),
		fmt.Sprintf("-rw-r--r-- 3000 %q %d", "hard2", at),
		fmt.Sprintf("-rw-r--r-- 6 %q %d", "inline", at),
		fmt.Sprintf("drw-r--r-- 0 %q %d", "opaque/", at),
		fmt.Sprintf("-rw-r--r-- 1000 %q %d", "opaque/f", at),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	why := map[string]bool{}
	for _, l := range lost {
		why[l.Why] = true
	}
	for _, w := range []string{"block device", "character device", "fifo", "whiteout"} {
		if !why[w] {
			t.Errorf("a %s is not told to be lost: %v", w, lost)
		}
	}
}

// TestWriteZipPart: a part is complete by itself.
func TestWriteZipPart(t *testing.T) {
	r := newRepository(t)
	st, _ := save(t, r, changes(), nil)
	var b bytes.Buffer
	if _, err := archive.WriteZip(t.Context(), r, st, "hard2", &b); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(z.File) != 1 || z.File[0].UncompressedSize64 != 3000 {
		t.Fatalf("%v, %v", z, err)
	}
}
