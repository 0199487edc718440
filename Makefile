# Every target makes .venv itself, with plain pip. PYTHON chooses the interpreter (3.11).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-versions chaos check check-deploy docs format install-dev package release clean

demo: $(VENV)/runtime.stamp
	$(BIN)/bevt demo --out demo

# COVERAGE=1 adds a table of the lines that tests run in their own process; commands they start are not counted.
test: $(VENV)/dev.stamp
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --max-worker-restart 0 -q $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

test-slow: $(VENV)/dev.stamp
	$(BIN)/pytest -m slow -q

# The oldest or newest versions that pyproject.toml allows, in an environment of their own: RESOLUTION=highest for the newest.
RESOLUTION ?= lowest-direct
VERSIONS := .venv-$(RESOLUTION)
test-versions: $(BIN)/python
	$(BIN)/pip install --quiet "uv>=0.9"
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VERSIONS)
	$(BIN)/uv pip install --quiet --python $(VERSIONS) --resolution $(RESOLUTION) -e ".[dev]"
	$(VERSIONS)/bin/pytest -m "not slow" -n 2 --dist loadfile -q tests/unit tests/golden tests/e2e/test_public_api.py tests/e2e/test_tokenize.py

chaos: $(VENV)/dev.stamp
	$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),1200) --seed $(or $(SEED),1)

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# Workflows, image, compose file, shell scripts and manifests, against their schemas and linters.
check-deploy: $(VENV)/deploy.stamp
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck --external-sources .ci/run deploy/slurm/*.sbatch benchmarks/*/*.sh
	$(BIN)/pytest -q tests/integration/test_deploy_files.py

# The site, in build/docs; each of its warnings, such as a link or an anchor that leads nowhere, is an error (with --quiet, mkdocs would not count them).
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install-dev: $(VENV)/dev.stamp

# The sdist and the wheel in dist/, installed in an empty environment and used there.
package: $(VENV)/dev.stamp
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	BEVT_DIST=dist $(BIN)/pytest -m slow -q tests/e2e/test_installed_package.py

# make release VERSION=0.2.0 [DRY_RUN=1]: sets the version, builds, tests, commits and tags. It does not push.
release: $(VENV)/dev.stamp
	$(BIN)/python .ci/release.py $(VERSION) $(if $(DRY_RUN),--dry-run)

clean:
	rm -rf $(VENV) .venv-lowest-direct .venv-highest demo build dist *.egg-info

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

$(VENV)/deploy.stamp: $(VENV)/dev.stamp
	$(PIP_INSTALL) -e ".[deploy]"
	touch $@
