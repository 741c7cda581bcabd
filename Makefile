# Hakobune: everything a developer does here. `make` alone lists it.

SHELL   := /bin/bash
GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
PREFIX  ?= /usr/local
LAB     ?= $(CURDIR)/.lab
# Package test first: it takes longest, and mostly waits for engines, while the others work in the second of go's two slots.
PKG     ?= ./test ./...
# A clone without tags (a shallow one, or one of an early commit) still gets a version that names its commit.
VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo "v0.0.0-$$(git describe --always --dirty 2>/dev/null || echo unknown)")
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.release=$(VERSION)'

# Packages whose tests run a second time under the race detector: all that start goroutines.
RACE := ./chunkstore/... ./crypto/... ./exporter/... ./importer/... ./internal/...

.DEFAULT_GOAL := help
.PHONY: help build test check lint format vet staticcheck fix deadcode structure race demo swarm bench chaos lab lab-down fuzz golden fmt vuln install clean FORCE

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

build: bin/hakobune ## build bin/hakobune, one static binary

bin/hakobune: FORCE
	@mkdir -p bin
	$(BUILD) -o $@ ./cmd/hakobune

test: ## run every test against real engines and servers, brought up for it and ended afterwards (root)
	test/setup/run.sh $(GO) test -timeout 30m $(TESTFLAGS) $(PKG)

# One lab for both runs of tests, which comes up while lint works. A part that fails does not keep the next from its verdict.
check: ## everything that must hold: lint, race tests, tests; what CI runs
	test/setup/run.sh -beside '$(MAKE) lint' $(MAKE) --keep-going race test

lint: format vet staticcheck fix deadcode ## what can be said without running anything

format:
	@out=$$($(TOOL) gofumpt -l .) && if [ -n "$$out" ]; then echo "not formatted (make fmt):"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet ./...

staticcheck:
	$(TOOL) staticcheck -checks all ./...

fix:
	$(GO) fix -diff ./...

# What nothing reaches, and what ships though only tests reach it. deadcode reports and exits 0, so its words are the verdict.
deadcode:
	@out=$$($(TOOL) deadcode -test ./... 2>&1 && $(TOOL) deadcode ./cmd/... 2>&1) && [ -z "$$out" ] || { echo "unreachable functions:"; echo "$$out"; exit 1; }

structure: ## only the tests of the house: who imports whom, no globals, no machine's paths
	$(GO) test -run '^TestStructure' ./test

race: ## the tests of the concurrent packages under the race detector
	test/setup/run.sh env CGO_ENABLED=1 $(GO) test -race -short -timeout 30m $(TESTFLAGS) $(RACE)

demo: build ## the whole story on this machine: back a system up, lose it, restore it (root)
	test/demo/demo.sh

swarm: build ## a lost system runs on a swarm of two private engines that pull from the repository, in 20 s (root)
	test/demo/swarm.sh

bench: build ## benchmarks, and the tables of docs/performance.md beside restic, kopia, borg, a registry (root); BENCH=nights: those only
	$(GO) test -run '^$$' -bench . -benchmem $(TESTFLAGS) $(PKG)
	HAKOBUNE=$${HAKOBUNE:-$(CURDIR)/bin/hakobune} test/bench/run.sh $(if $(BENCH),,-doc $(CURDIR)/docs/performance.md) $(BENCH)

chaos: build ## hosts back up, forget and prune for CHAOS=10m, killed at random, behind a store that fails; SEED=N of an earlier run
	test/setup/tools.sh
	PATH=$${HAKOBUNE_TEST_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/hakobune-test}/bin:$$PATH \
		$(GO) run ./test/chaos -for $(or $(CHAOS),10m) -hakobune $(CURDIR)/bin/hakobune $(if $(SEED),-seed $(SEED))

lab: ## bring the test engines up and leave them; `. .lab/env` then lets plain `go test` use them (root)
	test/setup/lab.sh up $(LAB)

lab-down: ## end what `make lab` brought up
	test/setup/lab.sh down $(LAB)

fuzz: ## every fuzz target for FUZZTIME (10s each): parsers of what is stored, sent and extracted
	@$(GO) list ./... | while read -r pkg; do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzzminimizetime 2s -fuzztime $(or $(FUZZTIME),10s) $$pkg || exit 1; \
		done; \
	done

golden: ## for a release: add a repository as this version writes it to those that every later one must read; GOLDEN=v1.2.0
	HAKOBUNE_GOLDEN=$(or $(GOLDEN),$(error which release? make golden GOLDEN=v1.2.0)) $(GO) test -count=1 -run '^TestGoldenMake$$' ./test
	$(GO) test -count=1 -run '^TestGolden$$' ./test

fmt: ## format and modernise the code in place
	$(TOOL) gofumpt -w .
	$(GO) fix ./...

vuln: ## look dependencies up in the vulnerability database (needs its network service, so not part of check)
	$(TOOL) govulncheck ./...

install: build ## install to $(DESTDIR)$(PREFIX), also as the Docker CLI plugin `docker hakobune`
	install -D -m 0755 bin/hakobune $(DESTDIR)$(PREFIX)/bin/hakobune
	install -d $(DESTDIR)$(PREFIX)/lib/docker/cli-plugins
	ln -sf ../../../bin/hakobune $(DESTDIR)$(PREFIX)/lib/docker/cli-plugins/docker-hakobune

clean: ## remove what was built here (the test binaries' cache stays)
	rm -rf bin
	$(GO) clean -testcache
