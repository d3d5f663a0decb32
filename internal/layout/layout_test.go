// Package layout_test checks which folder of the repository may import which.
package layout_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The server side and the client side meet only over HTTP, so neither imports the other. models can't import sealer:
// code that has the rows can't open them. sealer can't import models: code that opens envelopes can't find any.
// cmd/secrets-svc holds key-encryption keys, so it may import only packages of the server side that use no database.
// Packages in internal are leaves: everything may import them, and they import only other leaves.
func TestLayout(t *testing.T) {
	// rule says what the Go files under a folder may import from this repository.
	type rule struct {
		folder     string   // with a slash at its end
		mayImport  []string // folders with everything in them
		anyInTests bool     // its tests may import anything: they need both halves of the system
	}
	server := []string{"impl/", "models/", "sealer/", "spec/", "gen/", "internal/"}
	client := []string{"sdk/", "dataplane/", "internal/"}
	keys := []string{"impl/httpapi/", "impl/secrets/", "impl/telemetry/", "sealer/", "gen/secrets/", "internal/"} // no database
	const programs = "cmd/internal/"                                                                              // shared by programs of both sides
	rules := []rule{                                                                                              // the table of folders in docs/architecture.md
		{folder: "", mayImport: nil}, // the root has only a package doc
		{folder: "internal/", mayImport: []string{"internal/"}},
		{folder: "spec/"},
		{folder: "gen/", mayImport: []string{"internal/"}},
		{folder: "models/", mayImport: []string{"models/", "internal/"}},
		{folder: "sealer/", mayImport: []string{"sealer/", "internal/"}},
		{folder: "sealer/remote/", mayImport: []string{"sealer/", "internal/", "gen/secrets/"}},
		{folder: "impl/", mayImport: append([]string{"docs/"}, server...)},
		{folder: "sdk/", mayImport: []string{"sdk/"}},
		{folder: "dataplane/", mayImport: []string{"dataplane/", "gen/dataplane/", "spec/", "internal/"}},
		{folder: "cmd/internal/", mayImport: []string{programs, "internal/"}},
		{folder: "cmd/aikeysd/", mayImport: append(server, programs, "cmd/aikeysd/"), anyInTests: true},
		{folder: "cmd/secrets-svc/", mayImport: append(keys, programs, "cmd/secrets-svc/"), anyInTests: true},
		{folder: "cmd/aikeys-gateway/", mayImport: append(client, programs, "cmd/aikeys-gateway/"), anyInTests: true},
		{folder: "cmd/aikeys-demo/", mayImport: append(client, programs), anyInTests: true},
		{folder: "cmd/tare/", mayImport: append(client, programs, "cmd/tare/"), anyInTests: true},
		{folder: "docs/", anyInTests: true},
		{folder: "tools/"},
		{folder: "deploy/"},
	}
	modules := map[string]string{ // the folders of this repository's Go modules
		"github.com/agentrouter/aikeys":       "",
		"github.com/tetrateio/agentrouter-go": "sdk/go",
	}
	type source struct{ name, file, text, problem string }
	var sources []source
	tree := os.DirFS("../..")
	require.NoError(t, fs.WalkDir(tree, ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (entry.Name()[0] == '.' || entry.Name() == "node_modules"):
			return fs.SkipDir
		case path.Ext(file) == ".go":
			text, err := fs.ReadFile(tree, file)
			sources = append(sources, source{"this repository", file, string(text), ""})
			return err
		}
		return nil
	}))
	const ours = "github.com/agentrouter/aikeys/"
	for name, tc := range map[string]struct{ file, imported, problem string }{
		"an import that the table forbids":       {"models/a.go", ours + "sealer", "may not import sealer"},
		"an import of the other half":            {"impl/aikeys/a.go", ours + "dataplane", "may not import dataplane"},
		"an import of another generated package": {"dataplane/a.go", ours + "gen/aikeys", "may not import gen/aikeys"},
		"an import of the Go SDK":                {"impl/a.go", "github.com/tetrateio/agentrouter-go/option", "may not import sdk/go/option"},
		"an import of more than a leaf":          {"internal/a.go", ours + "models", "may not import models"},
		"a test that breaks the table":           {"models/a_test.go", ours + "sealer", "may not import sealer"},
		"both halves in one program":             {"cmd/aikeysd/serve.go", ours + "dataplane", "may not import dataplane"},
		"rows in the process that holds keys":    {"cmd/secrets-svc/a.go", ours + "models", "may not import models"},
		"a database in that process":             {"cmd/secrets-svc/a.go", ours + "impl/feed", "may not import impl/feed"},
		"a test package in a program":            {"impl/a.go", ours + "models/modelstest", "only tests may"},
		"a folder that the table lacks":          {"extra/a.go", "fmt", "no rule"},
		"code in the root":                       {"a.go", ours + "models", "may not import models"},
		"nothing wrong in a program's test":      {"cmd/aikeysd/a_test.go", ours + "sdk", ""},
		"nothing wrong with a test package":      {"models/modelstest/a.go", ours + "models", ""},
		"nothing wrong with its use by a test":   {"impl/a_test.go", ours + "models/modelstest", ""},
		"a key service's client in a gateway":    {"dataplane/a.go", ours + "sealer/vault", "may not import sealer/vault"},
		"rows beside a key service's client":     {"sealer/vault/a.go", ours + "models", "may not import models"},
		"nothing wrong with the remote sealer":   {"sealer/remote/a.go", ours + "gen/secrets", ""},
	} {
		sources = append(sources, source{name, tc.file, fmt.Sprintf("package a\n\nimport _ %q\n", tc.imported), tc.problem})
	}

	testPackage := regexp.MustCompile(`test(/|$)`) // modelstest, sealertest, and packages below them
	for _, s := range sources {
		parsed, err := parser.ParseFile(token.NewFileSet(), s.file, s.text, parser.ImportsOnly)
		require.NoError(t, err)
		problems, isTest := []string{}, strings.HasSuffix(s.file, "_test.go")
		// found is the rule of the longest folder that holds the file. The root's rule is only for files in the root.
		var found *rule
		for _, r := range rules {
			holds := strings.HasPrefix(s.file, r.folder) && (r.folder != "" || !strings.Contains(s.file, "/"))
			if holds && (found == nil || len(r.folder) > len(found.folder)) {
				found = &r
			}
		}
		if found == nil {
			problems, parsed.Imports = []string{"no rule says what this folder may import: add one to rules"}, nil
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			require.NoError(t, err)
			for module, root := range modules {
				rest, isOurs := strings.CutPrefix(imported+"/", module+"/")
				dir := path.Join(root, rest)
				allowed := slices.ContainsFunc(found.mayImport, func(folder string) bool { return strings.HasPrefix(dir+"/", folder) })
				switch {
				case !isOurs:
				case !allowed && (!isTest || !found.anyInTests):
					problems = append(problems, fmt.Sprintf("files of %s may not import %s", found.folder, dir))
				case testPackage.MatchString(dir) && !isTest && !testPackage.MatchString(path.Dir(s.file)):
					problems = append(problems, fmt.Sprintf("imports %s, which only tests may", dir))
				}
			}
		}
		if s.problem == "" {
			require.Empty(t, problems, "%s: %s", s.name, s.file)
			continue
		}
		require.Len(t, problems, 1, "%s: %s", s.name, s.file)
		require.Contains(t, problems[0], s.problem, "%s: %s", s.name, s.file)
	}
}

// Only the two programs that seal link the clients of key management services, which are large and hold credentials.
func TestClientsOfKeyServicesAreLinkedWhereUsed(t *testing.T) {
	clients := regexp.MustCompile(`^(github\.com/openbao/|github\.com/aws/aws-sdk-go-v2/service/kms|cloud\.google\.com/go/kms)`)
	for program, want := range map[string]bool{
		"aikeysd": true, "secrets-svc": true, "aikeys-gateway": false, "tare": false, "aikeys-demo": false,
	} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../cmd/"+program).Output()
		require.NoError(t, err)
		require.Equal(t, want, slices.ContainsFunc(strings.Fields(string(out)), clients.MatchString), program)
	}
}
