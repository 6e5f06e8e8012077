# The commands of this repository. `make` alone lists them.
SHELL := /bin/bash
CARGO ?= cargo
export CARGO
# ARGS goes to the program (run), to cargo test (test) or to the benchmarks (bench): make test ARGS="-p atelier-worker"
ARGS ?=

.DEFAULT_GOAL := help
MODEL_ROUNDS ?= 20
FUZZ_ITERATIONS ?= 200000

.PHONY: help run test model fuzz check check-static bench fmt services clean-local

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-13s %s\n' "$$name" "$$what"; done

run: ## start the whole system on 127.0.0.1:8080, data in ./data; ARGS="--help" shows the settings
	@scripts/setup run
	@$(CARGO) build --release --locked
	@exec $${CARGO_TARGET_DIR:-target}/release/atelier $(ARGS)

test: ## all tests, in both modes, against real Postgres, Redis and MongoDB of their own
	@scripts/test $(ARGS)

model: ## random rooms and misfortunes, MODEL_ROUNDS=20 of them in each mode, seeds of their own; MODEL_SEED=n for one again
	@MODEL_ROUNDS=$(MODEL_ROUNDS) MODEL_SEED=$(MODEL_SEED) scripts/test --workspace --test stories -- model::

fuzz: ## strike at everything that reads outside bytes, FUZZ_ITERATIONS=200000 inputs each; FUZZ_SEED=n for others
	@FUZZ_ITERATIONS=$(FUZZ_ITERATIONS) $(CARGO) test --locked --workspace --lib -- fuzz:: struck

check: ## exactly what CI runs: the tests, then check-static
	@.ci/run

check-static: ## format, lints, documentation, unused dependencies, licences, hygiene, what is in deploy/
	@scripts/check-static

bench: ## speed and memory beside bare counterparts and stock servers from npm; docs/BENCHMARKS.md says what is measured
	@scripts/bench $(ARGS)

fmt: ## format the code
	@$(CARGO) fmt --all

services: ## start Postgres, Redis and MongoDB for local use; stop them with deploy/local/services down
	@deploy/local/services up

clean-local: ## stop the servers of this checkout and delete .local (their data, fetched tools)
	@deploy/local/services wipe
	@ATELIER_SERVICES_DIR="$(CURDIR)/.local/test-services" deploy/local/services wipe
	@ATELIER_SERVICES_DIR="$(CURDIR)/.local/bench-services" deploy/local/services wipe
	@rm -rf .local
