# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv with plain pip; a second run finds it there.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --quiet --no-compile --disable-pip-version-check -c constraints.txt
TORCH  := $(shell sed -n '/^torch==/p' constraints.txt)
NATIVE := CMakeLists.txt $(wildcard runtime/native/*)
ROOMS  := spaces runtime trainers search
STUDY  ?= quickstart
SEEDS  ?= 300
STORE  ?= $(or $(UNDERSTUDY_STORE),understudy-store)

# A file of tests stays on one worker: they share what they set up. The first file takes longest. Tests of whole searches
# wait for processes half of their time, so there are more workers than the two cores that they are made for.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# --no-compile saves a minute: Python compiles what is imported, not the 30,000 files that are installed. But it must
# be allowed to keep what it compiled, or every worker compiles torch again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install search ui test check lint types rooms fast coverage fuzz bench clean

help:           ## these lines
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST)

install: $(VENV)/.search-installed   ## only the environment of a search

search: $(VENV)/.search-installed   ## run a study (STUDY=quickstart) and print its front
	$(BIN)/understudy search $(STUDY) --store $(STORE)

ui: $(VENV)/.search-installed   ## the MLflow UI over the store, on loopback
	$(BIN)/understudy ui --store $(STORE)

test: $(VENV)/.all-installed   ## all checks and all tests; a check that fails does not hide the tests
	@failed=0; \
	for check in lint types rooms; do $(MAKE) --no-print-directory $$check || failed=1; done; \
	$(PYTEST) || failed=1; \
	exit $$failed

check: lint types rooms fast   ## all checks and the fast tests

lint: $(VENV)/.all-installed
	$(BIN)/ruff check .

types: $(VENV)/.all-installed
	$(BIN)/mypy

rooms: $(VENV)/.all-installed
	$(BIN)/lint-imports

fast: $(VENV)/.all-installed
	$(PYTEST) -m "not slow"

coverage: $(VENV)/.all-installed   ## all tests, and the lines that they leave out
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

fuzz: $(BIN)/cmake   ## random students through the engine under the sanitizers (SEEDS=300, about half a minute)
	$(BIN)/cmake -S . -B build/fuzz -DUNDERSTUDY_SANITIZE=ON
	$(BIN)/cmake --build build/fuzz --parallel
	build/fuzz/fuzz_engine $(SEEDS)

bench: $(VENV)/.all-installed   ## benchmarks of speed and of survival; each prints one JSON document as its last line
	@for benchmark in distill_throughput latency_predictor engine spmm service survival; do \
		echo "== $$benchmark"; $(BIN)/python -m benchmarks.$$benchmark --json || exit 1; done

clean:          ## remove the environment and the caches, never the store
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/cmake: | $(BIN)/python
	@$(PIP) cmake

# torch goes first and by its exact version, so that pip never weighs a newer build of several gigabytes against it.
$(VENV)/.torch-installed: constraints.txt | $(BIN)/python
	@$(PIP) $(TORCH)
	@touch $@

$(VENV)/.search-installed: pyproject.toml constraints.txt $(NATIVE) $(VENV)/.torch-installed
	@echo "installing what a search needs into $(VENV) (some minutes, once)" >&2
	@$(PIP) -e ".[search,quickstart]"
	@touch $@

# Not after the one above, which it holds: the engine would be compiled twice.
$(VENV)/.all-installed: pyproject.toml constraints.txt $(NATIVE) $(VENV)/.torch-installed
	@echo "installing what a search, checks, tests and exports need into $(VENV) (some minutes, once)" >&2
	@$(PIP) -e ".[search,quickstart,export,serve,dev]"
	@touch $(VENV)/.search-installed $@
