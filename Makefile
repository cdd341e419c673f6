# make setup | demo | test | lint | clean.  demo and test do their own set-up.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint lock clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): requirements/dev.lock pyproject.toml tools/install-system-packages
	@tools/install-system-packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dualpath needs Python 3.11 or newer: make PYTHON=python3.11 setup")'
	@echo "installing the locked packages into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(VENV)/bin/dualpath demo

test: setup
	@$(VENV)/bin/tox run

lint: setup
	@$(VENV)/bin/tox run -e lint

COMPILE := $(VENV)/bin/python -m piptools compile --generate-hashes --no-emit-index-url --no-emit-trusted-host \
  --no-emit-find-links --no-emit-options --strip-extras --allow-unsafe

lock:
	$(VENV)/bin/python -m pip install --quiet pip-tools
	$(COMPILE) --output-file requirements/dev.lock pyproject.toml requirements/dev.in
	$(COMPILE) --output-file harness/bundle/hosts.lock requirements/hosts.in

clean:
	rm -rf $(VENV) .tox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build
