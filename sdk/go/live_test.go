package agentrouter_test

import (
	"bufio"
	"errors"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

func collect[T any](t *testing.T, items iter.Seq2[T, error]) (found []T) {
	t.Helper()
	for item, err := range items {
		must(t, err)
		found = append(found, item)
	}
	return found
}

func TestAgainstTheService(t *testing.T) {
	dir := t.TempDir()
	command(t, filepath.Join("..", ".."), []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir+"/", "./cmd/aikeysd", "./cmd/aikeys-gateway")
	const port = "127.0.0.1:0"
	server := exec.CommandContext(t.Context(), filepath.Join(dir, "aikeysd"), "dev", "--data", dir, "--listen", port,
		"--dataplane-listen", port, "--ops-listen", port, "--gateway-listen", port)
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
	server.WaitDelay = 20 * time.Second
	out, err := server.StdoutPipe()
	must(t, err)
	must(t, server.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasSuffix(lines.Text(), "is ready.") {
	}
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(io.Discard, out) }) // until the server ends, so that it never blocks on its output
	t.Cleanup(func() {                                     // the test's context has ended, which stops the server
		reading.Wait()
		_ = server.Wait()
	})
	text, err := os.ReadFile(filepath.Join(dir, "session.env"))
	must(t, err)
	session := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if assignment, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			name, value, _ := strings.Cut(assignment, "=")
			session[name] = value
		}
	}

	ctx := t.Context()
	newClient := func(apiKey string) *agentrouter.Client {
		return client(t, session["AGENTROUTER_BASE_URL"], agentrouter.WithAPIKey(apiKey))
	}
	owner, member := newClient(session["AGENTROUTER_API_KEY"]), newClient(session["AGENTROUTER_MEMBER_API_KEY"])

	who, err := owner.WhoAmI(ctx)
	must(t, err)
	equal(t, who.Role, aikeysv1.RoleOwner)
	providers, err := owner.Providers().List(ctx)
	must(t, err)
	equal(t, len(providers.Providers) > 10, true)

	t.Run("keys", func(t *testing.T) {
		const secret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-9f3c"
		once := owner.AIKeys().With(agentrouter.IdempotencyKey(t.Name()))
		made, err := once.Register(ctx, "", "", aikeysv1.ProviderOpenai, "openai-prod", secret, false)
		must(t, err)
		again, err := once.Register(ctx, "", "", aikeysv1.ProviderOpenai, "openai-prod", secret, false)
		must(t, err)
		equal(t, again.Key.ID, made.Key.ID)
		_, err = owner.AIKeys().Register(ctx, "", "", aikeysv1.ProviderOpenai, "openai-prod", secret, false)
		is(t, err, agentrouter.ErrAlreadyExists)
		_, err = member.AIKeys().Register(ctx, "", "", aikeysv1.ProviderOpenai, "mine", secret, false)
		is(t, err, agentrouter.ErrPermissionDenied)
		_, err = member.AIKeys().Register(ctx, "", "", aikeysv1.ProviderOpenai, "mine", secret, true)
		must(t, err)
		_, err = owner.AIKeys().Register(ctx, "", "", aikeysv1.ProviderOpenai, " bad ", secret, false)
		is(t, err, agentrouter.ErrInvalidArgument)
		equal(t, as[*agentrouter.Error](t, err).Fields[0].Field, "name")

		got, err := member.AIKeys().Get(ctx, "", "", made.Key.ID)
		must(t, err)
		equal(t, got.Key.DisplaySuffix, "9f3c")
		resolved, err := owner.AIKeys().Resolve(ctx, "", "", aikeysv1.ProviderOpenai)
		must(t, err)
		equal(t, resolved.Key.ID, made.Key.ID)

		list, err := member.AIKeys().With(agentrouter.OfProvider("openai"), agentrouter.InState("active")).List(ctx, "", "")
		must(t, err)
		equal(t, len(list.Keys), 2)
		paged := collect(t, member.AIKeys().With(agentrouter.PageSize(1)).All(ctx, "", ""))
		equal(t, asJSON(t, paged), asJSON(t, list.Keys))

		revoked, err := owner.AIKeys().With(agentrouter.Wait(5*time.Second)).Revoke(ctx, "", "", made.Key.ID)
		must(t, err)
		equal(t, revoked.Receipt.State, aikeysv1.ReceiptStateComplete)
		_, err = owner.AIKeys().Revoke(ctx, "", "", "byok_01M83VVAHV8M2T5K7N9R4W1XYZ")
		is(t, err, agentrouter.ErrNotFound)
	})
	t.Run("policy", func(t *testing.T) {
		exceptions := aikeysv1.UserKeysByProvider{"anthropic": aikeysv1.UserKeysRequire}
		set, err := owner.Policy().Set(ctx, "", "", aikeysv1.UserKeysForbid, exceptions, aikeysv1.OnBadKeyNextKey)
		must(t, err)
		equal(t, set.Policy.UserKeysByProvider, exceptions)
		_, err = member.Policy().Set(ctx, "", "", "", nil, "")
		is(t, err, agentrouter.ErrPermissionDenied)
		_, err = owner.Policy().Set(ctx, "", "", "", nil, "")
		must(t, err)
		got, err := member.Policy().Get(ctx, "", "")
		must(t, err)
		equal(t, got.Policy.UserKeys, aikeysv1.UserKeysAllow)
	})
	t.Run("members", func(t *testing.T) {
		set, err := owner.Members().Set(ctx, "", "", "carol", aikeysv1.RoleMember)
		must(t, err)
		equal(t, set.Member.UserID, "carol")
		list, err := owner.Members().List(ctx, "", "")
		must(t, err)
		paged := collect(t, owner.Members().With(agentrouter.PageSize(1)).All(ctx, "", ""))
		equal(t, asJSON(t, paged), asJSON(t, list.Members))
		_, err = owner.Members().Remove(ctx, "", "", "carol")
		must(t, err)
		_, err = owner.Members().Remove(ctx, "", "", "carol")
		is(t, err, agentrouter.ErrNotFound)
		_, err = owner.Members().Remove(ctx, "", "", who.UserID)
		is(t, err, agentrouter.ErrFailedPrecondition)
		equal(t, errors.Is(err, agentrouter.ErrAlreadyExists), false)
	})
	t.Run("events", func(t *testing.T) {
		page, err := owner.Events().With(agentrouter.PageSize(2)).List(ctx, who.CustomerID, who.ProjectID)
		must(t, err)
		equal(t, len(page.Events), 2)
		paged := collect(t, owner.Events().With(agentrouter.PageSize(2)).All(ctx, "", ""))
		equal(t, asJSON(t, paged), asJSON(t, collect(t, owner.Events().All(ctx, "", ""))))
	})
	// Each example becomes a module that uses the unpacked SDK in third_party, as the reference shows. The build
	// downloads nothing and needs no go.sum. AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY are the example's only
	// settings.
	t.Run("examples of the packed SDK", func(t *testing.T) {
		work := t.TempDir()
		name := "agentrouter-go-" + agentrouter.Version
		command(t, ".", nil, "./dist.sh", work)
		command(t, work, nil, "tar", "xzf", name+".tar.gz")
		expect := map[string]string{
			"register": "registered byok_", "get": `"state":"active"`, "list": "openai", "revoke": ": complete, ",
		}
		for _, example := range []string{"register", "get", "list", "revoke"} {
			t.Run(example, func(t *testing.T) {
				dir := filepath.Join(work, "run", example)
				must(t, os.MkdirAll(filepath.Join(dir, "third_party"), 0o750))
				must(t, os.Symlink(filepath.Join(work, name), filepath.Join(dir, "third_party", name)))
				source, err := os.ReadFile(filepath.Join(work, name, "examples", example, "main.go"))
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, "main.go"), source, 0o600))
				must(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(strings.Join([]string{
					"module example.com/aikeys/" + example, "go 1.26",
					"require github.com/tetrateio/agentrouter-go v" + agentrouter.Version,
					"replace github.com/tetrateio/agentrouter-go => ./third_party/" + name, "",
				}, "\n")), 0o600))
				out := command(t, dir, []string{
					"GOPROXY=off", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "OPENAI_API_KEY=",
					"AGENTROUTER_BASE_URL=" + session["AGENTROUTER_BASE_URL"],
					"AGENTROUTER_API_KEY=" + session["AGENTROUTER_MEMBER_API_KEY"],
				}, "go", "run", ".")
				contains(t, out, expect[example])
			})
		}
	})
	t.Run("a wrong credential", func(t *testing.T) {
		_, err := newClient("ak_nobody").WhoAmI(ctx)
		is(t, err, agentrouter.ErrUnauthenticated)
	})
}

func command(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func TestPackedSDKIsReproducible(t *testing.T) {
	archive := "agentrouter-go-" + agentrouter.Version + ".tar.gz"
	first, second := t.TempDir(), t.TempDir()
	command(t, ".", nil, "./dist.sh", first)
	command(t, ".", []string{"TZ=Asia/Tokyo", "LC_ALL=C"}, "bash", "-c", "umask 077; ./dist.sh "+second)
	command(t, ".", nil, "cmp", filepath.Join(first, archive), filepath.Join(second, archive))
}
