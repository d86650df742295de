# `make report` and `make test` do their own set-up; both are safe to repeat. `make PYTHON=python3.12 ...` chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := $(shell command -v uv 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help report test coverage docs gallery lint lock environment bench quiet faults experiments truth clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

report: environment ## environment, then the reports of the Open University example: ends with the path of the index page
	$(BIN)/convlib run --resume params/oulad/weekly.yaml

test: lint ## environment, then linter, formatter, type checker and all tests, as many files at once as there are cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

coverage: environment ## all tests, and which lines of the library they don't reach (slower)
	$(BIN)/python -m pytest --cov

lint: environment ## environment, then linter, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: environment ## the documentation site, into site/: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

gallery: environment ## the pictures of docs/gallery.md, from its own blocks (a minute)
	$(BIN)/python -m benchmarks.gallery

environment: $(READY) ## .venv with everything that requirements.txt pins, and convlib itself

# uv where there is one, else Python's own venv and pip.
$(READY): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convlib needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ". Name a newer one: make PYTHON=python3.12")'
	@echo "Making $(VENV): a minute or two the first time."
ifdef UV
	uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	uv pip install --quiet --compile-bytecode --python $(VENV) --require-hashes -r requirements.txt
	uv pip install --quiet --python $(VENV) --no-deps --no-build-isolation -e .
else
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.txt
	$(PIP) install --no-deps --no-build-isolation -e .
endif
	@touch $(READY)

lock: ## requirements.txt from pyproject.toml (needs uv); UPGRADE=--upgrade takes the newest versions
	uv pip compile pyproject.toml --extra dev --extra ibis --extra spark --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	  --custom-compile-command 'make lock' $(UPGRADE) --output-file requirements.txt

bench: environment ## seconds and memory against peers, on 10 million seeded events (some minutes)
	$(BIN)/python -m benchmarks.bench_quality
	$(BIN)/python -m benchmarks.bench_funnel
	$(BIN)/python -m benchmarks.bench_correlation
	$(BIN)/python -m benchmarks.bench_attribution
	$(BIN)/python -m benchmarks.bench_runs

quiet: environment ## how often alerts are raised when nothing happens, and found when something does, in 100 simulated years
	$(BIN)/python -m benchmarks.quiet_years

faults: environment ## kills runs, workers and kernels at 20 random moments each, continues them, and compares (about an hour)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m benchmarks.faults

experiments: environment ## what simulated experiments show when nothing changed, and what is decided when something did (some minutes)
	$(BIN)/python -m benchmarks.experiments

truth: environment ## convlib and four products' scores on logs with known effects (about 20 minutes): the numbers and the figure of docs/truth.md
	$(BIN)/python -m benchmarks.truth --figure docs/images/truth.png

clean: ## removes the environment, caches and builds; reports stay
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
