SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: announce audit bench-tare console console-dev verify-console test-console help run run-split demo mock build dist hooks fuzz-api test test-clients test-go test-pages test-sdks bench fuzz lint lint-spec lock-python breaking generate verify-generate check tools clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

run: announce build ## Start everything on this machine: SQLite, a local keyset, a gateway, a ready session
	@bin/aikeysd dev

run-split: announce build ## The same with the secrets service in a process of its own
	@tools/run-split.sh

demo: build ## Watch a key being shared, used and revoked, in a few seconds
	@bin/aikeys-demo

# "make run" says what it waits for: without a cache the compiler is silent for minutes.
announce:
	@echo 'building the programs: minutes the first time, seconds from then on' >&2

build: ## Build the programs into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

dist: bin/cyclonedx-gomod bin/nfpm tools/audit/node_modules/.package-lock.json ## Pack programs and SDKs into dist/ (PLATFORMS='linux/amd64 darwin/arm64', all by default; VERSION)
	@tools/dist.sh dist $(PLATFORMS)

mock: announce build ## Start the service with example data, for any API key (MOCK_PORT=4010; AIKEYS_CORS_ORIGINS for a page elsewhere)
	@bin/aikeysd dev --mock --listen 127.0.0.1:$(or $(MOCK_PORT),4010) --dataplane-listen 127.0.0.1:0 --ops-listen 127.0.0.1:0 --gateway-listen 127.0.0.1:0 --log-level warn

test: bin/gotestsum ## Install what the tests need, then run them all
	@tools/deps.sh compiler postgres pgbouncer patroni etcd haproxy curl nginx caddy node python gnome-keyring
	@tools/peers.sh install
	@tools/test-go.sh $(TESTFLAGS)
	@tools/test-others.sh

test-go: bin/gotestsum ## Run the Go tests alone (TESTFLAGS='-v -run Name')
	@tools/test-go.sh $(TESTFLAGS)

test-clients: ## Generate clients with others' generators, run the samples and the published programs
	@tools/test-clients.sh

test-pages: ## Look at the reference pages in a real browser
	@impl/docsite/browser.sh

console: ## Build the web console into impl/docsite/console, which aikeysd embeds
	@console/build.sh

verify-console: ## Check that the console's files in git are what console/ builds
	@console/build.sh --check

console-dev: ## Serve the console from its source, beside "make run" (SERVICE=http://127.0.0.1:4010 for the mock)
	@cd console && source ./install.sh && npm run --silent types && npx --no-install vite

test-console: ## Use the console in a real browser
	@console/browser.sh

test-sdks: ## Run the tests of the Python and TypeScript SDKs alone
	@tools/test-sdks.sh

bench: ## Measure the service against its machine, as ratios in one run (BENCH=regexp)
	@tools/deps.sh postgres wrk
	@go test -run='^$$' -bench='$(or $(BENCH),.)' -benchtime=1x -timeout=60m ./impl/bench ./dataplane/gateway
	@go test -run='^$$' -bench='$(or $(BENCH),.)' ./dataplane

bench-tare: ## Measure how soon tare shows something
	@cmd/tare/bench.sh

fuzz: ## Run each fuzz target for FUZZTIME (5s)
	@FUZZTIME=$(or $(FUZZTIME),5s) tools/fuzz.sh

fuzz-api: ## Fuzz a running service from its documents (FUZZ_SEED, FUZZ_EXAMPLES)
	@tools/fuzz-api/run.sh

lint: bin/golangci-lint ## Check the Go code: format, vet, linters, go.mod
	@tools/lint-go.sh

lint-spec: tools/lint/node_modules/.package-lock.json ## Check the OpenAPI documents
	@tools/lint/run.sh
	@spec/lint/test.sh

breaking: bin/oasdiff ## Check the OpenAPI documents against the released ones
	@tools/breaking.sh

generate: ## Generate everything that is made from spec/: gen/, the Go SDK's core, the API documents as JSON
	@go generate ./...

verify-generate: ## Check that the generated files in git are what spec/ generates
	@tools/verify-generate.sh

audit: tools ## Look up all dependencies in the databases of known vulnerabilities
	@tools/audit.sh

lock-python: ## Write the Python requirements with versions and hashes (LOCKFLAGS=--upgrade)
	@tools/lock-python.sh $(LOCKFLAGS)

hooks: ## Run the fast checks before each commit in this checkout
	git config core.hooksPath .githooks

check: ## Run everything that CI runs
	@.ci/run

tools: bin/oasdiff bin/golangci-lint bin/gotestsum bin/govulncheck bin/cyclonedx-gomod bin/nfpm tools/lint/node_modules/.package-lock.json ## Build the pinned tools

clean: ## Remove what was built; data/ stays
	rm -rf bin dist tools/audit/node_modules tools/audit/.venv impl/docsite/browsertest/node_modules console/node_modules sdk/python/.venv sdk/typescript/node_modules tools/lint/node_modules tools/clients/node_modules tools/clients/.venv tools/fuzz-api/.venv tools/peers/node_modules tools/peers/.venv tools/litellm/.venv

# These tools are pinned in tools/go.mod and built once: golangci-lint takes a minute. The code generator is a tool of go.mod.
bin/oasdiff: tool := github.com/oasdiff/oasdiff
bin/golangci-lint: tool := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
bin/gotestsum: tool := gotest.tools/gotestsum
bin/govulncheck: tool := golang.org/x/vuln/cmd/govulncheck
bin/cyclonedx-gomod: tool := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
bin/nfpm: tools/nfpm/go.mod tools/nfpm/go.sum
	go -C tools/nfpm build -o ../../bin/ github.com/goreleaser/nfpm/v2/cmd/nfpm
	@touch $@

bin/oasdiff bin/golangci-lint bin/gotestsum bin/govulncheck bin/cyclonedx-gomod: tools/go.mod tools/go.sum
	go -C tools build -o ../bin/ $(tool)
	@touch $@

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	npm ci --prefix $* --ignore-scripts --no-audit --no-fund
	@touch $@
