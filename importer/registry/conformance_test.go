package registry_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

// TestConformance has the OCI's own program ask what a registry must answer: one that takes pushes, and one that does not.
func TestConformance(t *testing.T) {
	program, err := exec.LookPath("conformance")
	if err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("HAKOBUNE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip("test/setup/tools.sh builds the conformance program; have it in PATH")
	}
	if testing.Short() {
		t.Skip("one client, one request after the other")
	}
	g := newTarget(t, emptyRepository(t))
	img := pushable(t)
	ok(t, remote.Write(g.ref("conformance/repo1:there"), img))
	digest, err := img.Digest()
	ok(t, err)
	m, err := img.Manifest()
	ok(t, err)
	reader := registry.New(g.repo, importer.ContainerImages(g.repo, ""), registry.Options{})
	readOnly := httptest.NewServer(reader)
	t.Cleanup(func() {
		readOnly.Close()
		ok(t, reader.Close())
	})
	conform(t, program, readOnly.URL, "OCI_API_PUSH=false", "OCI_RO_DATA_TAGS=there", "OCI_RO_DATA_MANIFESTS="+digest.String(),
		"OCI_RO_DATA_BLOBS="+m.Config.Digest.String()+" "+m.Layers[0].Digest.String())
	conform(t, program, newTarget(t, emptyRepository(t)).url, "OCI_API_MANIFESTS_TAG_PARAM=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true",
		"OCI_API_MANIFESTS_DIGEST_HEADER=true", "OCI_API_BLOBS_DIGEST_HEADER=true")
}

// conform runs the program and holds what it says to its verdicts: each that counts is Pass.
func conform(t *testing.T, program, url string, env ...string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OCI_REGISTRY="+strings.TrimPrefix(url, "http://"), "OCI_TLS=disabled", "OCI_VERSION=1.1", "OCI_RESULTS_DIR="+dir,
		"OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false", "OCI_API_BLOBS_MOUNT_ANONYMOUS=false")
	cmd.Env = append(cmd.Env, env...)
	// What it exits with says nothing: of a registry that it only reads it cannot write all its reports, and panics.
	out, _ := cmd.CombinedOutput()
	verdict := regexp.MustCompile(`(?m)^ *OCI Conformance Test/?(.*): (\w+)$`)
	count := map[string]int{}
	for _, m := range verdict.FindAllStringSubmatch(string(out), -1) {
		if count[m[2]]++; m[2] != "Pass" && m[2] != "Disabled" {
			t.Errorf("%s: %s", m[1], m[2])
		}
	}
	t.Log(count)
	if count["Pass"] < 10 || t.Failed() {
		t.Errorf("%s", out)
	}
}
