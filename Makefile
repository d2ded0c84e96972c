# Order Workflows: everything a fresh machine needs is git, make and Python >= 3.11.

PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .tools/bin/uv)
BIN := .venv/bin
ROOTS := $(wildcard services/*/src shared/src sandbox/src ops/src tests) $(patsubst %/__main__.py,%,$(wildcard bench/__main__.py))

export UV_PYTHON := $(PYTHON)
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV

.PHONY: help demo test check up down chaos bench docs pictures lock clean sync browser faketime
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: sync ## Install, start and play every story, then stay up until Ctrl-C (ONCE=1: end with the stories)
	@$(BIN)/oms demo $(if $(filter 1,$(ONCE)),--once)

test: sync browser ## Install and run every test this machine can run (ARGS="-k refund")
	@$(BIN)/pytest $(ARGS)

check: sync ## Format, lint, types, import contracts, generated files, unit and property tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy $(ROOTS)
	@$(BIN)/lint-imports
	@$(BIN)/python -m ops.docs --check
	@$(BIN)/python -m bench.report --check
	@$(BIN)/pytest -q tests/unit tests/properties

up: sync ## Start the system and return when it is ready
	@$(BIN)/oms up --detach

down: ## End the system
	@if [ -x $(BIN)/oms ]; then $(BIN)/oms down; fi

chaos: sync faketime ## Strike the loaded system, then ask every invariant (SEED=1 MINUTES=10)
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10) $(ARGS)

bench: sync ## Measure beside floors and rivals (QUICK=1: within minutes; ARGS="2 5" picks figures; SOAK_MINUTES=60)
	@$(UV) sync --quiet --group bench
	@UV=$(UV) $(BIN)/python -m bench $(ARGS)

docs: sync ## Generate machines, messages, OpenAPI and the table of figures under docs/
	@$(BIN)/python -m ops.docs
	@$(BIN)/python -m bench.report

pictures: sync browser ## Take the pictures in docs/ anew, from the running page
	@OMS_PICTURES=docs $(BIN)/pytest -q tests/browser -k pictures

lock: sync ## Take the newest versions that fit and pin them in pyproject.toml
	@$(BIN)/python -m ops.pins $(UV)

clean: down ## End the system and remove its state
	@rm -rf var

sync: $(filter .tools/%,$(UV))
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed, python3 here is: $$(python3 -V 2>&1)" >&2; exit 1; }
	@$(UV) sync $(if $(wildcard .venv),--quiet,--compile-bytecode)

.tools/bin/uv:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed, python3 here is: $$(python3 -V 2>&1)" >&2; exit 1; }
	@echo "installing uv into .tools"
	@$(PYTHON) -m venv .tools || { echo "error: python3 cannot make virtual environments: install python3-venv, or uv" >&2; exit 1; }
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv

# The browser tests need a Chromium; without one they skip themselves, and this says so first.
browser:
	@for c in chromium chromium-browser google-chrome; do command -v $$c >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "no Chromium and no way to install one: tests/browser is left out"

# One strike sets a process's clock an hour off; without the library it is missed, and says so.
faketime:
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing faketime"; \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq faketime; } >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "no libfaketime and no way to install one: no clock is set off"
