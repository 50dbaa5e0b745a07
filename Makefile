# `make run` and `make test` need nothing but Python 3.11 or newer; both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 30
SCENARIO ?= simulations/scenarios/quickstart.toml
TESTS ?= tests
# Tests as processes that CI has time for: a run on each engine, workers and drivers that are killed, a study that is.
AS_PROCESSES := $(addprefix tests/,simulations/engines/ray/test_sums.py simulations/engines/ray/test_guard.py \
	simulations/app/test_launch.py simulations/lab/test_sweep.py strategies/test_buffered.py)
PYTEST := $(BIN)/python -m pytest -q --durations=10
SPREAD ?= -n logical --maxprocesses 8 --dist loadgroup

.PHONY: run test test-ci test-all test-browser test-root fuzz check bundle format docs benchmark vectors clean

run: $(VENV)/.installed
	$(BIN)/fl-mlmc run $(SCENARIO)

test: $(VENV)/.installed-dev
	$(PYTEST) $(SPREAD) -m "not slow and not long and not browser" $(TESTS)

test-ci: test
	$(PYTEST) $(SPREAD) -m "slow and not root" $(AS_PROCESSES)

test-all: test
	$(PYTEST) $(SPREAD) -m "(slow or long) and not root and not browser" $(TESTS)

test-browser: $(VENV)/.installed-dev
	$(PYTEST) -m browser $(TESTS)

test-root: $(VENV)/.installed-dev
	$(PYTEST) -m root $(TESTS)

fuzz: $(VENV)/.installed-dev
	@for what in payload:corpus message:messages; do new=$$(mktemp -d) && \
	$(BIN)/python tests/fuzz/fuzz_$${what%:*}.py -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=$$new/ \
	$$new tests/fuzz/$${what#*:} || exit 1; done

check: $(VENV)/.installed-dev bundle
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# Types and contracts are of one package, fl_mlmc: of the tree as a wheel holds it, rooms within the library.
	@rm -rf .tree && mkdir .tree && cp -pr fl_mlmc pyproject.toml .tree && cp -pr clients deploy simulations strategies .tree/fl_mlmc
	cd .tree && $(CURDIR)/$(BIN)/mypy --cache-dir $(CURDIR)/.mypy_cache && $(CURDIR)/$(BIN)/lint-imports --no-cache

bundle: $(VENV)/.installed-dev
	@folder=$$(mktemp -d)/fl-mlmc && \
	$(BIN)/python -c "from fl_mlmc.simulations.app.bundle import stage_app; from pathlib import Path; stage_app(Path('$$folder'))" && \
	cd $$folder && FLWR_HOME=$$folder.home FLWR_DISABLE_UPDATE_CHECK=1 FLWR_TELEMETRY_ENABLED=0 $(CURDIR)/$(BIN)/flwr build && \
	rm -rf $$(dirname $$folder)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	@# The reference is read, not imported, from the tree as a wheel holds it: rooms within the library.
	@rm -rf .tree && mkdir .tree && cp -pr fl_mlmc .tree && cp -pr clients deploy simulations strategies .tree/fl_mlmc
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

benchmark: $(VENV)/.installed
	$(BIN)/python benchmarks/rounds.py

clean:
	rm -rf $(VENV) .tree site .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@ $(VENV)/.installed
