package aikeys_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// layoutRule says what the files under a prefix of their path may import of ours, as prefixes of folders.
type layoutRule struct {
	prefix     string
	mayImport  []string
	anyInTests bool // tests may import anything: they need both halves of the system
}

// layoutRules is docs' table of folders. The longest prefix that fits a file counts; a file that none fits is an error.
func layoutRules() []layoutRule {
	server := []string{"impl/", "models/", "sealer/", "spec/", "gen/", "internal/"}
	client := []string{"sdk/", "dataplane/", "internal/"}
	shared := []string{"cmd/internal/", "internal/"} // what programs have in common, which belongs to neither half
	return []layoutRule{
		{prefix: "spec/"},
		{prefix: "internal/", mayImport: []string{"internal/"}},
		{prefix: "gen/", mayImport: []string{"internal/"}},
		{prefix: "models/", mayImport: []string{"models/", "internal/"}},
		{prefix: "sealer/", mayImport: []string{"sealer/", "internal/"}},
		{prefix: "sealer/remote/", mayImport: []string{"sealer/", "internal/", "gen/secrets/"}},
		{prefix: "impl/", mayImport: server},
		{prefix: "sdk/", mayImport: []string{"sdk/"}},
		{prefix: "dataplane/", mayImport: []string{"dataplane/", "gen/dataplane/", "internal/"}},
		{prefix: "cmd/internal/", mayImport: shared},
		{prefix: "cmd/aikeysd/", mayImport: slices.Concat(server, shared, []string{"cmd/aikeysd/"}), anyInTests: true},
		{prefix: "cmd/aikeysd/dev", mayImport: slices.Concat(server, client, shared, []string{"cmd/aikeysd/"}), anyInTests: true},
		{prefix: "cmd/secrets-svc/", mayImport: slices.Concat(server, shared, []string{"cmd/secrets-svc/"}), anyInTests: true},
		{prefix: "cmd/aikeys-gateway/", mayImport: slices.Concat(client, shared, []string{"cmd/aikeys-gateway/"}), anyInTests: true},
		{prefix: "cmd/tare/", mayImport: slices.Concat(client, shared, []string{"cmd/tare/"}), anyInTests: true},
	}
}

// ourModules maps the paths of our modules to their folders.
func ourModules() map[string]string {
	return map[string]string{
		"github.com/agentrouter/aikeys":       "",
		"github.com/tetrateio/agentrouter-go": "sdk/go",
	}
}

// unwanted are texts that no file may hold: package registries, which are a setting of each machine, and a path that
// exists on one machine alone. They are in two parts so that this file may hold them.
func unwanted() []string {
	return []string{
		"/wo" + "rk/",
		"proxy.go" + "lang.org", "sum.go" + "lang.org", "registry.npm" + "js.org", "registry.yarn" + "pkg.com",
		"py" + "pi.org", "python" + "hosted.org", "deb.deb" + "ian.org", "archive.ubu" + "ntu.com",
		"static.crates" + ".io", "index.crates" + ".io",
	}
}

func TestLayout(t *testing.T) {
	for _, problem := range layoutProblems(t, os.DirFS(".")) {
		t.Error(problem)
	}
}

// A check that notices nothing passes on everything: each one is shown what it is for.
func TestLayoutChecksNotice(t *testing.T) {
	const ours = "github.com/agentrouter/aikeys/"
	goFile := func(name, imported string) string {
		kind := "Package"
		if name == "main" {
			kind = "Command"
		}
		return fmt.Sprintf("// %s %s is one.\npackage %s\n\nimport _ %q\n", kind, name, name, imported)
	}
	cases := map[string]struct{ file, text, problem string }{
		"an import that the table forbids": {
			"models/a.go", goFile("models", ours+"sealer"), "may not import sealer"},
		"an import of the other half": {
			"impl/aikeys/a.go", goFile("aikeys", ours+"dataplane"), "may not import dataplane"},
		"an import of another generated package": {
			"dataplane/a.go", goFile("dataplane", ours+"gen/aikeys"), "may not import gen/aikeys"},
		"an import of the Go SDK": {
			"impl/a.go", goFile("impl", "github.com/tetrateio/agentrouter-go/option"), "may not import sdk/go/option"},
		"a test that breaks the table": {
			"models/a_test.go", goFile("models", ours+"sealer"), "may not import sealer"},
		"both halves in one program": {
			"cmd/aikeysd/serve.go", goFile("main", ours+"dataplane"), "may not import dataplane"},
		"a test package in a program": {
			"impl/a.go", goFile("impl", ours+"models/modelstest"), "only tests may"},
		"a folder that the table lacks": {
			"extra/a.go", goFile("extra", "fmt"), "no rule"},
		"a package without a doc": {
			"models/a.go", "package models\n", "no package doc"},
		"a doc that does not name its package": {
			"models/a.go", "// Models are here.\npackage models\n", "no package doc"},
		"a file that is not Go": {
			"models/a.go", "package", "models/a.go"},
		"a path of one machine": {
			"docs/a.md", "see /wo" + "rk/main", "docs/a.md:1: names /wo" + "rk/"},
		"a package registry": {
			"sdk/package-lock.json", "{\n\"https://registry.npm" + "js.org/x\"}", "sdk/package-lock.json:2: names"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			problems := layoutProblems(t, fstest.MapFS{tc.file: {Data: []byte(tc.text)}})
			require.Len(t, problems, 1)
			require.Contains(t, problems[0], tc.problem)
		})
	}
	allowed := fstest.MapFS{
		".gitignore":             {Data: []byte("# built\n/bin/\nnode_modules/\n*.prof\n")},
		"bin/notes":              {Data: []byte("/wo" + "rk/")},
		"a/node_modules/b/c":     {Data: []byte("/wo" + "rk/")},
		"cpu.prof":               {Data: []byte("/wo" + "rk/")},
		"go.sum":                 {Data: []byte("sum.go" + "lang.org")},
		"sealer/remote/a.go":     {Data: []byte(goFile("remote", ours+"gen/secrets"))},
		"cmd/aikeysd/dev.go":     {Data: []byte(goFile("main", ours+"dataplane/gateway"))},
		"cmd/aikeysd/a_test.go":  {Data: []byte(goFile("main", ours+"sdk"))},
		"models/modelstest/a.go": {Data: []byte(goFile("modelstest", ours+"models"))},
		"impl/a_test.go":         {Data: []byte(goFile("impl", ours+"models/modelstest"))},
	}
	require.Empty(t, layoutProblems(t, allowed))
}

// layoutProblems returns a line for each thing in the tree that is not as it should be.
func layoutProblems(t *testing.T, tree fs.FS) []string {
	t.Helper()
	ignored := ignoredPaths(t, tree)
	var problems []string
	documented := map[string]bool{} // by folder, for those that hold a package
	err := fs.WalkDir(tree, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (file == ".git" || ignored(file)):
			return fs.SkipDir
		case !entry.Type().IsRegular() || ignored(file):
			return nil
		}
		text, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		problems = append(problems, textProblems(file, text)...)
		if path.Ext(file) != ".go" {
			return nil
		}
		source, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			problems = append(problems, err.Error())
			return nil
		}
		problems = append(problems, importProblems(file, source)...)
		if isTest(file) {
			return nil
		}
		documented[path.Dir(file)] = documented[path.Dir(file)] || hasPackageDoc(source)
		return nil
	})
	require.NoError(t, err)
	for dir, ok := range documented {
		if !ok {
			problems = append(problems, dir+`: no package doc: no comment "Package <name> …" ("Command …" on a main)`)
		}
	}
	slices.Sort(problems)
	return problems
}

func textProblems(file string, text []byte) []string {
	if path.Base(file) == "go.sum" || bytes.IndexByte(text, 0) >= 0 {
		return nil
	}
	var problems []string
	for _, bad := range unwanted() {
		if i := bytes.Index(text, []byte(bad)); i >= 0 {
			line := 1 + bytes.Count(text[:i], []byte("\n"))
			problems = append(problems, fmt.Sprintf("%s:%d: names %s, which belongs to one machine", file, line, bad))
		}
	}
	return problems
}

func importProblems(file string, source *ast.File) []string {
	if !strings.Contains(file, "/") {
		return nil // the root holds this test and a package doc
	}
	rule, ok := ruleFor(file)
	if !ok {
		return []string{file + ": no rule says what this folder may import: add one to layoutRules"}
	}
	var problems []string
	for _, spec := range source.Imports {
		dir, ours := ourFolder(spec.Path.Value)
		if !ours {
			continue
		}
		permitted := slices.ContainsFunc(rule.mayImport, func(p string) bool { return strings.HasPrefix(dir+"/", p) })
		if !permitted && (!isTest(file) || !rule.anyInTests) {
			problems = append(problems, fmt.Sprintf("%s: files of %s may not import %s", file, rule.prefix, dir))
			continue
		}
		if isTestPackage(dir) && !isTest(file) && !isTestPackage(path.Dir(file)) {
			problems = append(problems, fmt.Sprintf("%s: imports %s, which only tests may", file, dir))
		}
	}
	return problems
}

// ruleFor returns the rule with the longest prefix of the file's path.
func ruleFor(file string) (rule layoutRule, ok bool) {
	for _, r := range layoutRules() {
		if strings.HasPrefix(file, r.prefix) && len(r.prefix) > len(rule.prefix) {
			rule, ok = r, true
		}
	}
	return rule, ok
}

// ourFolder returns the folder of a quoted import path; not ours when it belongs to another's module.
func ourFolder(quoted string) (dir string, ours bool) {
	imported, err := strconv.Unquote(quoted)
	if err != nil {
		return "", false
	}
	for module, root := range ourModules() {
		if rest, ok := strings.CutPrefix(imported+"/", module+"/"); ok {
			return path.Join(root, rest), true
		}
	}
	return "", false
}

func isTest(file string) bool { return strings.HasSuffix(file, "_test.go") }

// isTestPackage tells packages that serve tests by their name: modelstest, sealertest.
func isTestPackage(dir string) bool {
	return slices.ContainsFunc(strings.Split(dir, "/"), func(s string) bool { return strings.HasSuffix(s, "test") })
}

func hasPackageDoc(source *ast.File) bool {
	want := "Package " + source.Name.Name + " "
	if source.Name.Name == "main" {
		want = "Command "
	}
	return strings.HasPrefix(source.Doc.Text(), want)
}

// ignoredPaths reads the tree's .gitignore; it knows names and globs, at the root ("/bin/") or anywhere ("*.prof").
func ignoredPaths(t *testing.T, tree fs.FS) func(file string) bool {
	t.Helper()
	text, err := fs.ReadFile(tree, ".gitignore")
	if err != nil {
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	patterns := strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
	return func(file string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			subject := file
			if pattern = strings.TrimSuffix(pattern, "/"); !strings.Contains(pattern, "/") {
				subject = path.Base(file)
			}
			matched, err := path.Match(strings.TrimPrefix(pattern, "/"), subject)
			require.NoError(t, err, ".gitignore: %s", pattern)
			return matched
		})
	}
}
