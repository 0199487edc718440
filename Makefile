# Every target makes .venv itself, with plain pip. PYTHON chooses the interpreter (3.11).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow chaos check docs format clean

demo: $(VENV)/runtime.stamp
	$(BIN)/bevt demo --out demo

# COVERAGE=1 adds a table of the lines that tests run in their own process; commands they start are not counted.
test: $(VENV)/dev.stamp
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --max-worker-restart 0 -q $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

test-slow: $(VENV)/dev.stamp
	$(BIN)/pytest -m slow -q

chaos: $(VENV)/dev.stamp
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),1200) --seed $(or $(SEED),1)

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The site, in build/docs; each of its warnings, such as a link or an anchor that leads nowhere, is an error (with --quiet, mkdocs would not count them).
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Bytecode is written when a module is first imported, not for all of the packages: a minute less to install.
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE

# Editable, so that a change in the checkout is a change in the command; versions pinned by constraints.txt.
$(VENV)/runtime.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e ".[dev]"
	touch $(VENV)/runtime.stamp $@
