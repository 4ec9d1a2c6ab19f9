# Everything runs in .venv, which is made on first use and again when setup.cfg changes. `make PYTHON=python3.12 …`
# chooses another interpreter for it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests of genuine Celery have an environment of their own: the shim's need its absence.
WITH_CELERY = $$($(BIN)/python -m tests.environments)/python -m pytest
# The tests wait more than they work: three files at once. `make test TESTS_AT_ONCE=0`: one after the other.
TESTS_AT_ONCE ?= 3
# In full most of the time is that of a broker that is away.
CASES_AT_ONCE ?= 4
FAULTS_AT_ONCE ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench cases faults soak services services-stop clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.test-stamp ## a broker, a worker and a few tasks, with their results
	@$(BIN)/python examples/quickstart/demo.py

test: $(VENV)/.test-stamp ## the tests, those that take minutes in a short form
	@[ -e .celery-venv ] || echo 'installing Celery into .celery-venv, for the tests that want it: it takes a while'
	@$(BIN)/python -m tests.environments >/dev/null # here, and not within the time that a test may take
	@status=0; \
	$(PYTEST) -q -m "not long" -n $(TESTS_AT_ONCE) --dist loadfile || status=1; \
	$(WITH_CELERY) -q -m "not long" -n $(TESTS_AT_ONCE) --dist loadfile tests/genuine || status=1; \
	exit $$status

check: $(VENV)/.dev-stamp ## ruff, mypy --strict, import order
	@failed=; for tool in "ruff check --output-format concise" "mypy --strict" "lint-imports"; do \
	  echo "== $$tool"; $(BIN)/$$tool || failed="$$failed $${tool%% *}"; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

docs: $(VENV)/.docs-stamp ## the documents as a site, in build/site; a link that leads nowhere is an error
	@$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs/site . build/site && echo "build/site/docs/index.html"

bench: $(VENV)/.test-stamp ## the benchmarks (see benchmarks/README.md)
	@set -e; for program in benchmarks/[a-z]*.py; do [ -e "$$program" ] || continue; \
	  echo "== $$program"; $(BIN)/python "$$program"; done

cases: $(VENV)/.test-stamp ## the behaviours of Celery in full, three times over
	@set -e; for round in 1 2 3; do echo "== round $$round"; \
	  $(PYTEST) -q -m cases -n $(CASES_AT_ONCE) --dist loadfile; \
	  $(WITH_CELERY) -q -m cases -n $(CASES_AT_ONCE) --dist loadfile tests/genuine; done

faults: $(VENV)/.test-stamp ## kills, cuts and full disks in full
	$(PYTEST) -q -m faults -n $(FAULTS_AT_ONCE) --dist loadfile --timeout 3600
	$(WITH_CELERY) -q -m faults --timeout 3600 tests/genuine

soak: $(VENV)/.test-stamp ## three million tasks, half an hour at least: does anything grow?
	$(BIN)/python -m tests.faults.soak

services: $(VENV)/.test-stamp ## install (as root, with apt-get) and start Redis and RabbitMQ for the tests; install a browser
	@$(BIN)/python -m tests.services start

services-stop: $(VENV)/.test-stamp ## end what `make services` started
	@$(BIN)/python -m tests.services stop

clean: ## remove what was made here: environments, caches, running services
	@if [ -e .services/state.json ] && [ -x $(BIN)/python ]; then $(BIN)/python -m tests.services stop; fi
	rm -rf $(VENV) .stock-venv .stock-venv.lock .celery-venv .celery-venv.lock .services build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# What is not compiled at its installation is compiled when it is imported first, which most of it never is.
$(VENV)/.test-stamp: setup.cfg | $(VENV)/bin/python
	@echo 'installing into $(VENV): about a minute the first time'
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.dev-stamp: setup.cfg | $(VENV)/bin/python
	@echo 'installing into $(VENV): about a minute the first time'
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[test,dev]'
	@touch $(VENV)/.test-stamp $@

$(VENV)/.docs-stamp: $(VENV)/.test-stamp
	@echo 'installing into $(VENV) what makes the site'
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e '.[docs]'
	@touch $@
