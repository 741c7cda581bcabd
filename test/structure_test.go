package test_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hakobune-dr/hakobune"

// house says who lives where: for each package the packages of this module and of third parties that it may import.
// A path stands for itself and all below it. What a package is not given here it does not import; the packages that only
// tests use may serve several parts. An import of a new module is a decision, and is made in this table.
//
// Some rows differ from the first plan, each with a reason: archive compresses the spool between two passes itself;
// internal/docker reads layers out of an engine's own store, which holds them in tar-split's format or compressed;
// extraction is our own (no path leaves its directory, sparse files stay sparse), so moby/go-archive is not used at all.
var house = map[string][]string{
	"crypto": {module + "/internal/frugal", "filippo.io/age", "github.com/minio/sio", "golang.org/x/crypto"},
	"chunkstore": {
		module + "/crypto", module + "/internal/frugal",
		"github.com/cenkalti/backoff/v5", "github.com/dustin/go-humanize", "github.com/klauspost/compress", "github.com/restic/chunker",
		"golang.org/x/sync", "golang.org/x/sys/unix", "golang.org/x/time/rate",
	},
	"chunkstore/archive": {
		module + "/chunkstore$", module + "/internal/frugal",
		"github.com/klauspost/compress", "github.com/vbatts/tar-split",
		"golang.org/x/sync", "golang.org/x/sys/unix",
	},
	"chunkstore/snapshot":  {module + "/chunkstore$", module + "/crypto", module + "/internal/frugal", "github.com/xrash/smetrics"},
	"chunkstore/local":     {module + "/chunkstore$", "golang.org/x/sys/unix"},
	"chunkstore/mem":       {module + "/chunkstore$"},
	"chunkstore/s3":        {module + "/chunkstore$", "github.com/minio/minio-go/v7", "golang.org/x/time/rate"},
	"chunkstore/transfer":  {module + "/chunkstore$", module + "/chunkstore/archive", module + "/chunkstore/snapshot"},
	"chunkstore/storetest": {module + "/chunkstore$", module + "/chunkstore/mem", "github.com/google/go-cmp", "golang.org/x/sync"},
	"exporter": {
		module + "/chunkstore$", module + "/chunkstore/archive", module + "/chunkstore/snapshot",
		"golang.org/x/sync", "golang.org/x/sys/unix",
	},
	"importer": {
		module + "/chunkstore$", module + "/chunkstore/archive", module + "/chunkstore/snapshot",
		module + "/importer/extract", module + "/importer/registry",
		"github.com/google/go-containerregistry", "github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec",
		"golang.org/x/sync", "golang.org/x/sys/unix",
	},
	"importer/compose": {
		module + "/chunkstore/snapshot", module + "/importer$", module + "/importer/registry",
		"github.com/compose-spec/compose-go/v2/types",
	},
	"importer/evidence": {module + "/chunkstore$", module + "/chunkstore/snapshot", module + "/importer$", module + "/internal/frugal"},
	"importer/extract":  {module + "/chunkstore/archive", "golang.org/x/sys/unix"},
	"importer/failover": {module + "/chunkstore$", module + "/chunkstore/snapshot", module + "/exporter$", module + "/importer$"},
	"importer/registry": {
		module + "/chunkstore$", module + "/chunkstore/archive", module + "/chunkstore/snapshot",
		"github.com/google/go-containerregistry", "github.com/klauspost/compress", "github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec",
	},
	"importer/mount": {
		module + "/chunkstore$", module + "/chunkstore/archive", module + "/chunkstore/snapshot",
		"github.com/hanwen/go-fuse/v2", "golang.org/x/sync", "golang.org/x/sys/unix",
	},
	"internal/docker": {
		module + "/chunkstore/snapshot",
		"github.com/containerd/errdefs", "github.com/moby/moby/api", "github.com/moby/moby/client", "github.com/moby/sys/mountinfo",
		"github.com/klauspost/compress", "github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec", "github.com/vbatts/tar-split",
		"golang.org/x/sync", "golang.org/x/sys/unix",
	},
	"internal/docker/dockertest": {
		module + "/chunkstore/snapshot",
		"github.com/containerd/errdefs", "github.com/moby/moby/api", "github.com/moby/moby/client",
	},
	"internal/frugal":     {},
	"internal/testserver": {},
	"cmd/hakobune": {
		module,
		"golang.org/x/crypto/bcrypt",
		"github.com/dustin/go-humanize", "github.com/go-analyze/charts/chartdraw", "github.com/urfave/cli/v2", "github.com/vbauerster/mpb/v8",
		"golang.org/x/sync", "golang.org/x/sys/unix", "golang.org/x/term",
	},
}

// testOnly are imported by tests, and by one another, and by nothing that ships.
var testOnly = []string{
	"chunkstore/mem", "chunkstore/storetest", "internal/docker/dockertest", "internal/testserver", "test",
}

// testTools are the third parties that tests may use everywhere, beside those of the package they test.
var testTools = []string{"github.com/google/go-cmp", "github.com/rogpeppe/go-internal"}

// source is one parsed Go file of this module.
type source struct {
	name string // slash-separated, from the top of the module
	dir  string
	test bool
	*ast.File
	fset *token.FileSet
}

func (s source) at(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// support tells whether the file only serves tests.
func (s source) support() bool { return s.test || slices.ContainsFunc(testOnly, below(s.dir)) }

// below gives a predicate: is dir the given package, or beneath it?
func below(dir string) func(string) bool {
	return func(p string) bool { return dir == p || strings.HasPrefix(dir, p+"/") }
}

// top finds the directory of go.mod above this test.
func top(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources parses every Go file of the module: not those of modules nested in it, nor what Go itself passes over.
func sources(t *testing.T) []source {
	t.Helper()
	root, fset := top(t), token.NewFileSet()
	var all []source
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, name)
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		all = append(all, source{name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), File: f, fset: fset})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func skipDir(root, name string) error {
	base := path.Base(name)
	if name == "." {
		return nil
	}
	if base == "testdata" || base[0] == '.' || base[0] == '_' {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join(root, name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

// allowed tells whether a list of the table covers an import. A trailing $ keeps what lies below out.
func allowed(list []string, imp string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		exact, only := strings.CutSuffix(p, "$")
		return imp == exact || !only && strings.HasPrefix(imp, p+"/")
	})
}

func TestStructureImports(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if below(s.dir)("test") {
			continue // what crosses packages may import them all
		}
		row, known := house[s.dir]
		if !known {
			t.Errorf("%s: package %s has no row in the table of the house", s.name, s.dir)
			continue
		}
		seen[s.dir] = true
		if s.test {
			row = slices.Concat(row, testTools, []string{module})
		}
		for _, spec := range s.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			checkImport(t, s, spec, imp, row)
		}
	}
	for dir := range house {
		if !seen[dir] {
			t.Errorf("the table of the house has a row for %s, where nobody lives", dir)
		}
	}
}

func checkImport(t *testing.T, s source, spec ast.Node, imp string, row []string) {
	t.Helper()
	first, _, _ := strings.Cut(imp, "/")
	if !strings.Contains(first, ".") {
		return // the standard library
	}
	if !allowed(row, imp) {
		t.Errorf("%s: %s may not import %s", s.at(spec), s.dir, imp)
	}
	of, ours := strings.CutPrefix(imp, module+"/")
	if !ours {
		return
	}
	if below(of)("test") || below(of)("cmd") {
		t.Errorf("%s: nobody imports %s", s.at(spec), of)
	}
	if !s.support() && slices.ContainsFunc(testOnly, below(of)) {
		t.Errorf("%s: %s is for tests only", s.at(spec), of)
	}
}

// TestStructureProcess: one file ends the process and sees its arguments and streams, one reads its environment.
func TestStructureProcess(t *testing.T) {
	only := map[string]string{
		"Exit": "main.go", "Args": "main.go", "Stdin": "main.go", "Stdout": "main.go", "Stderr": "main.go",
		"Getenv": "config.go", "LookupEnv": "config.go", "Environ": "config.go", "ExpandEnv": "config.go",
	}
	for _, s := range sources(t) {
		if s.support() {
			continue
		}
		ast.Inspect(s.File, func(n ast.Node) bool {
			name, ok := member(n, "os")
			if file := only[name]; ok && file != "" && s.name != path.Join("cmd/hakobune", file) {
				t.Errorf("%s: os.%s belongs in cmd/hakobune/%s", s.at(n), name, file)
			}
			return true
		})
	}
}

// member gives the name selected from a package, if n is such an expression.
func member(n ast.Node, pkg string) (string, bool) {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	id, ok := sel.X.(*ast.Ident)
	return sel.Sel.Name, ok && id.Name == pkg
}

// TestStructureState: no init(), no logger of the package or of the process.
func TestStructureState(t *testing.T) {
	for _, s := range sources(t) {
		for _, decl := range s.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: an init function", s.at(d))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR && mentionsLogger(d) {
					t.Errorf("%s: a logger as a variable of the package; it is an option", s.at(d))
				}
			}
		}
		checkGlobalLogger(t, s)
	}
}

func mentionsLogger(d *ast.GenDecl) bool {
	found := false
	ast.Inspect(d, func(n ast.Node) bool {
		if _, fn := n.(*ast.FuncLit); fn {
			return false
		}
		name, ok := member(n, "slog")
		found = found || ok && (name == "Logger" || name == "New" || name == "Default")
		return true
	})
	return found
}

func checkGlobalLogger(t *testing.T, s source) {
	t.Helper()
	global := map[string]*regexp.Regexp{
		"slog": regexp.MustCompile(`^(Default|SetDefault|(Debug|Info|Warn|Error|Log)(Context)?|LogAttrs)$`),
		"log":  regexp.MustCompile(`^(Default|Set|Print|Fatal|Panic|Output|Writer)`), // log.New may: net/http's servers want one
	}
	ast.Inspect(s.File, func(n ast.Node) bool {
		for pkg, names := range global {
			if name, ok := member(n, pkg); ok && names.MatchString(name) {
				t.Errorf("%s: %s.%s uses the process's logger; take a *slog.Logger", s.at(n), pkg, name)
			}
		}
		return true
	})
}

// TestStructureDocs: each package says what it holds.
func TestStructureDocs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			documented[s.dir] = documented[s.dir] || s.Doc != nil
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file of the package has a package comment", dir)
		}
	}
}

// TestStructureSkips: a test whose server or right is missing is passed over on a developer's machine only, never where
// everything is required. So the function that skips looks at that itself, or has called one of its package that does;
// or the run asked for less (-short). What a backend does not claim its conformance suite passes over; and a test that has
// nothing to test on an engine says so: "does not apply: ...".
func TestStructureSkips(t *testing.T) {
	guards := map[string]bool{} // by package and name
	all := sources(t)
	for _, s := range all {
		for fn := range functions(s) {
			if looks(fn, nil) {
				guards[s.dir+"."+fn.Name.Name] = true
			}
		}
	}
	for _, s := range all {
		for fn := range functions(s) {
			known := func(name string) bool { return guards[s.dir+"."+name] }
			if s.dir == "chunkstore/storetest" || looks(fn, known) {
				continue
			}
			for _, call := range skips(fn) {
				t.Errorf("%s: a skip that does not look at %s", s.at(call), required)
			}
		}
	}
}

const required = "HAKOBUNE_TEST_REQUIRE"

// functions gives the functions of a file that have a body.
func functions(s source) iter.Seq[*ast.FuncDecl] {
	return func(yield func(*ast.FuncDecl) bool) {
		for _, decl := range s.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil && !yield(fn) {
				return
			}
		}
	}
}

// looks tells whether a function asks if everything is required, or if less was asked for; or calls one that does.
func looks(fn *ast.FuncDecl, guard func(name string) bool) bool {
	found := false
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			found = found || strings.Contains(n.Value, required)
		case *ast.SelectorExpr:
			name, ok := member(n, "testing")
			found = found || ok && name == "Short"
		case *ast.CallExpr:
			id, ok := n.Fun.(*ast.Ident)
			found = found || ok && guard != nil && guard(id.Name)
		}
		return !found
	})
	return found
}

// skips gives the calls that pass a test over, but for those that say it does not apply.
func skips(fn *ast.FuncDecl) []ast.Node {
	var calls []ast.Node
	ast.Inspect(fn, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			return true
		}
		if len(call.Args) > 0 {
			if lit, ok := call.Args[0].(*ast.BasicLit); ok && strings.HasPrefix(lit.Value, `"does not apply: `) {
				return true
			}
		}
		calls = append(calls, call)
		return true
	})
	return calls
}

// TestStructurePaths: nothing that is tracked names a directory of the machine it was written on.
func TestStructurePaths(t *testing.T) {
	root := top(t)
	list := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	machine := regexp.MustCompile(`(^|[\s"'=:(\x60])/(work|root)/[\w.]`)
	for name := range strings.SplitSeq(strings.Trim(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || bytes.IndexByte(content, 0) >= 0 {
			continue // deleted but not yet committed, or not text
		}
		for i, line := range strings.Split(string(content), "\n") {
			if machine.MatchString(line) {
				t.Errorf("%s:%d: a path of one machine: %s", name, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// TestStructureThreats: the tests that docs/threat-model.md names are there, and each of its tables of what somebody cannot do names
// one in every row.
func TestStructureThreats(t *testing.T) {
	tests := map[string]bool{} // by the last part of the package's path and name
	for _, s := range sources(t) {
		for fn := range functions(s) {
			tests[path.Base(s.dir)+"."+fn.Name.Name] = tests[path.Base(s.dir)+"."+fn.Name.Name] || s.test
		}
	}
	text, err := os.ReadFile(filepath.Join(top(t), "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`([a-z0-9]+\\.Test\\w+)`")
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		named := name.FindAllStringSubmatch(line, -1)
		for _, n := range named {
			if !tests[n[1]] {
				t.Errorf("docs/threat-model.md:%d: there is no test %s", i+1, n[1])
			}
		}
		if strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "|-") && !strings.HasSuffix(line, "shown by |") {
			if rows++; len(named) == 0 {
				t.Errorf("docs/threat-model.md:%d: nothing shows this: %s", i+1, line)
			}
		}
	}
	if rows < 20 {
		t.Errorf("docs/threat-model.md: only %d rows of tables were found", rows)
	}
}
