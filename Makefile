# The verbs of the repository; each works from a fresh clone. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_RAY := $(VENV)/.installed-ray
# Python 3.11 or newer; name another one with `make install PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all dev lint bench clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv with everything that is needed, at the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed. Install it, or name it: make install PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or newer is needed: make install PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "A virtual environment cannot be made. On Debian: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV); the first time takes a few minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(INSTALLED_RAY): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,ray]'
	@touch $@

demo: install ## simulated days of trading, training, benchmark, deployment and one answer; prints a table
	$(BIN)/babylon demo

dev: install ## the Dagster UI on http://127.0.0.1:3000, the gateway, the dashboard, and the database
	$(BIN)/babylon dev

test: install ## the tests of every day, on every core
	$(BIN)/python -m pytest -m "not long" -n auto --maxprocesses 8 --dist loadfile

test-all: install $(INSTALLED_RAY) ## the long tests, which `make test` leaves out
	$(BIN)/python -m pytest -m long

lint: install ## ruff (rules and format) and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: install ## the benchmarks; one of them with NAME=..., a glance with ARGS=--quick
	@for file in benchmarks/$(or $(NAME),*).py; do \
		echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

clean: ## remove the environment and all caches; what is in .babylon (data, models) stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find babylon_rl babylon_rl_tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
