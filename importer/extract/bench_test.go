package extract_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/importer/extract"
)

// BenchmarkExtract writes small files into memory: how fast a disk makes inodes is not our figure.
func BenchmarkExtract(b *testing.B) {
	needRoot(b)
	top := b.TempDir()
	ok(b, unix.Mount("none", top, "tmpfs", 0, ""))
	defer unix.Unmount(top, unix.MNT_DETACH)
	nodes := []node{dirNode("")}
	for d := range 100 {
		dir := fmt.Sprintf("d%03d", d)
		nodes = append(nodes, dirNode(dir))
		for f := range 20 {
			nodes = append(nodes, fileNode(fmt.Sprintf("%s/f%03d", dir, f), strings.Repeat("x", 4096)))
		}
	}
	n := 0
	for b.Loop() {
		dir := filepath.Join(top, fmt.Sprint(n))
		_, err := extract.Tree(b.Context(), &tree{nodes: nodes}, dir, extract.Options{})
		ok(b, err)
		n++
	}
	b.ReportMetric(float64(len(nodes)*n)/b.Elapsed().Seconds(), "nodes/s")
}
