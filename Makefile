# `make` lists the targets. Needs only Python >= 3.11 and make; everything else goes into .venv/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help install lock proto proto-check sdk sdk-check sdk-test fmt lint types test test-unit test-conformance \
	test-contract test-architecture test-system test-clients test-bench migrate run send grpcurl bench bench-peer bench-query check \
	clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environment. A stamp is older than its lock file exactly when there is something to install.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Polylect needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "Python's venv module is missing: apt-get install python3-venv (or your system's package of it)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/.made
	@echo 'Installing into $(VENV)/ (about half a minute)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

install: $(VENV)/.run ## Make .venv with what running needs; other targets add what they need

lock: ## Renew requirements/*.txt (needs uv)
	$(LOCK) pyproject.toml requirements/build.in -o requirements/run.txt
	$(LOCK) --extra dev pyproject.toml requirements/build.in -c requirements/run.txt -o requirements/dev.txt
	$(LOCK) requirements/peer.in -o requirements/peer.txt
	$(LOCK) requirements/clients.in -o requirements/clients.txt

# The contract.

proto: $(VENV)/.dev ## Generate the stubs from the protos
	.ci/stubs proto

proto-check: $(VENV)/.dev ## Lint the protos, look for breaking changes, compare the stubs
	.ci/proto-check

# The browser scripts: built files are committed, so that nobody needs Node to run or to test.

sdk/node_modules/.made: sdk/package.json sdk/package-lock.json
	cd sdk && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

sdk: sdk/node_modules/.made ## Build the browser scripts (needs Node)
	cd sdk && npm run --silent build

sdk-check: sdk/node_modules/.made ## Compare the browser scripts with what their sources give (needs Node)
	cd sdk && npm run --silent check

sdk-test: sdk/node_modules/.made ## Run the unit tests of the browser scripts (needs Node)
	cd sdk && npm run --silent test

# Code.

fmt: $(VENV)/.dev ## Format code and protos
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/buf format -w proto

lint: $(VENV)/.dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types (mypy strict)
	$(BIN)/mypy

test: $(VENV)/.dev ## Run the tests; test-unit, -conformance, -contract, -architecture, -system: some; test-clients, -bench: more
	$(BIN)/python -m pytest

test-unit test-conformance test-contract test-architecture test-system test-clients test-bench: test-%: $(VENV)/.dev
	$(BIN)/python -m pytest tests/$*

check: $(VENV)/.dev ## Run what CI runs
	.ci/run

# Running.

run: $(VENV)/.run ## Run everything here, with the documents' example keys; Ctrl-C stops it
	@POLYLECT_MODE=$${POLYLECT_MODE:-demo} exec $(BIN)/polylect up

migrate: $(VENV)/.run ## Bring the database's schema up to date
	$(BIN)/polylect migrate

SEND_USAGE = make send DIALECT=pulsora|pulse|apex|datafly BODY='{...}' [KEY=...], or make send CASE=FILE.toml
send: export BODY := $(BODY)
send: $(VENV)/.run ## Send a body: make send DIALECT=pulsora KEY=pub_123 BODY='{...}', or CASE=FILE.toml
	$(if $(or $(CASE),$(and $(DIALECT),$(BODY))),,$(error send what? $(SEND_USAGE)))
	@$(BIN)/polylect send $(if $(CASE),'$(CASE)','$(DIALECT)' "$$BODY" --key '$(KEY)')

grpcurl: export DATA := $(DATA)
grpcurl: $(VENV)/.dev ## Call the running core: make grpcurl CALL=polylect.v1.QueryService/ListEvents DATA='{}' KEY=...
	@.ci/grpcurl '$(CALL)' "$$DATA" '$(KEY)'

bench: $(VENV)/.dev ## Measure throughput and latency; options in BENCH='--quick'
	$(BIN)/python -m benchmarks $(BENCH)

bench-peer: $(VENV)/.dev ## Compare with Envoy's gRPC-JSON transcoder, installed below build/; options in BENCH
	$(BIN)/python -m benchmarks --rows peer $(BENCH)

bench-query: $(VENV)/.dev ## Measure statistics over 10 M events; options in BENCH='--events 1000000'
	$(BIN)/python -m benchmarks.query $(BENCH)

clean: ## Remove the environment and caches; .polylect/ (your data) stays
	rm -rf $(VENV) *.egg-info build dist sdk/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
