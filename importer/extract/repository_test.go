package extract_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// store writes a tree to a repository.
func store(t *testing.T, r *chunkstore.Repository, from archive.Tree) chunkstore.Stream {
	t.Helper()
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "test"})
	ok(t, err)
	w := s.NewStream(t.Context())
	stats, err := archive.WriteTree(t.Context(), from, s, w, archive.TreeOptions{Note: func(n archive.Notice) { t.Errorf("note: %+v", n) }})
	ok(t, err)
	if want := int64(len(sample())); stats.Entries != want {
		t.Errorf("%d entries of %d", stats.Entries, want)
	}
	stream, err := w.Finish()
	ok(t, err)
	ok(t, s.Commit(t.Context(), "test", func(chunkstore.SessionStats) any { return nil }, stream))
	return stream
}

// TestExtractRepository takes the sample the whole way: from a directory, read here and through the
// protocol of the helper, into a repository and out of it into another directory.
func TestExtractRepository(t *testing.T) {
	needRoot(t)
	b, secret := mem.New(mem.Options{}), crypto.Passphrase([]byte("correct horse"))
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	_, err := chunkstore.Init(t.Context(), b, secret, crypto.SlotInfo{Label: "test"}, cheap, chunkstore.ChunkerParams{})
	ok(t, err)
	repo, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{})
	ok(t, err)

	source := t.TempDir()
	fillDir(t, sample(), source, extract.Options{})
	time.Sleep(100 * time.Millisecond) // what has just changed is recorded as not to be trusted
	local, err := exporter.OpenDir(source, exporter.DirOptions{})
	ok(t, err)
	defer local.Close()

	here, there := net.Pipe()
	served := make(chan error)
	go func() { served <- exporter.ServeTree(context.Background(), there, exporter.OpenRequest) }()
	helper, err := exporter.DialTree(t.Context(), here)
	ok(t, err)
	remote, err := helper.Open(t.Context(), exporter.TreeRequest{Path: source})
	ok(t, err)

	stream := store(t, repo, local)
	if diff := cmp.Diff(stream, store(t, repo, remote)); diff != "" {
		t.Errorf("the same tree, by a helper, gives other records (-local +helper):\n%s", diff)
	}
	ok(t, errors.Join(remote.Close(), helper.Close()))
	<-served // it may have been writing when the connection ended

	reader := archive.OpenTree(t.Context(), repo, stream)
	defer reader.Close()
	target := t.TempDir()
	_, err = extract.Tree(t.Context(), reader, target, extract.Options{Note: func(path, what string) { t.Errorf("note: %q: %s", path, what) }})
	ok(t, err)
	if diff := cmp.Diff(sample(), capture(t, target, exporter.DirOptions{})); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
}
