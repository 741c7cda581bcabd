package importer_test

import (
	"os"
	"testing"
)

// needRoot passes a test over that only root can run.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("HAKOBUNE_TEST_REQUIRE") != "" {
		t.Fatal("not root")
	}
	t.Skip("not root")
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
