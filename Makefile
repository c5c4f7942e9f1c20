# `make` lists what there is.  Everything is installed into .venv, at the exact versions of requirements.lock.

DEMO ?= $(CURDIR)/.demo
STACK ?= $(CURDIR)/.stack
STACK_OPTIONS ?=
SBOM ?= sbom.json
SIMULATE_OPTIONS ?= --subjects 8 --runs 2 --volumes 150 --workers 2
PREPARE_OPTIONS ?= --workers 2 --registration affine --no-motion
# Further scores of the winner would take longer than all the rest; the second trial that qmc proposes is a quick one.
SEARCH_OPTIONS ?= --trials 2 --sampler qmc --max-epochs 2 --commit-lag 2 --no-finalist-scores --finalists 0 \
  --null-flips 31 --seed 5
# Two at a time, those of one file in one process: they share what they prepare.
PYTEST_OPTIONS ?= -n 2 --dist loadfile --no-loadscope-reorder

VENV := .venv
AUDIT := .audit
PYTHON := $(VENV)/bin/python
# The first Python of a supported version that can make a virtual environment.
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14
SUPPORTED := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
# A Ray of the machine's own would take the demonstration and the tests over.
LOCAL := env -u RAY_ADDRESS

.DEFAULT_GOAL := help
.PHONY: help setup search test test-long bench stack stack-stop lint format lock audit sbom clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed-dev  ## install the project and the tools into .venv

search: $(VENV)/.installed  ## demonstrate: simulate a study, prepare it, search transformers (into DEMO=.demo)
	$(LOCAL) EEG2FMRI_HOME=$(DEMO)/home $(PYTHON) -m datasets.simulate $(DEMO)/raw $(SIMULATE_OPTIONS)
	$(LOCAL) EEG2FMRI_HOME=$(DEMO)/home $(PYTHON) -m datasets.prepare $(DEMO)/raw $(DEMO)/shards $(PREPARE_OPTIONS)
	$(LOCAL) EEG2FMRI_HOME=$(DEMO)/home $(PYTHON) -m platform.search transformer --shards $(DEMO)/shards $(SEARCH_OPTIONS)

test: lint  ## check style and types, run the tests that take seconds
	$(LOCAL) $(PYTHON) -m pytest -m "not slow" $(PYTEST_OPTIONS)

test-long: lint  ## the same with every test
	$(LOCAL) $(PYTHON) -m pytest $(PYTEST_OPTIONS)

bench: $(VENV)/.installed-dev  ## run every benchmark, print one table (docs/measurements.md)
	@$(LOCAL) $(PYTHON) -m benchmarks

stack: $(VENV)/.installed-dev  ## start object storage, PostgreSQL, MLflow and Ray on this machine (into STACK=.stack)
	$(LOCAL) $(PYTHON) -m deploy.stack start $(STACK) $(STACK_OPTIONS)

stack-stop: $(VENV)/.installed-dev  ## stop what make stack started
	$(LOCAL) $(PYTHON) -m deploy.stack stop $(STACK) $(STACK_OPTIONS)

lint: $(VENV)/.installed-dev  ## check style and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

format: $(VENV)/.installed-dev  ## put the code into shape
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

# torch without its +cpu or +cu suffix, so that the same lock serves machines with and without a GPU.
lock: $(VENV)/.installed-dev  ## write the versions now installed into requirements.lock
	{ echo "# Constraints for pip: the exact versions that the tests ran with.  Written by: make lock"; \
	  $(PYTHON) -m pip --quiet freeze --exclude-editable | sed -n 's/^\([A-Za-z0-9._-]*==[^+ ]*\).*/\1/p' \
	  | LC_ALL=C sort --ignore-case; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

# Tools of their own environment: what they need is not what the project needs.  Without --strict a package that the
# service does not answer for would pass.
audit: $(AUDIT)/.installed  ## compare the locked versions with known weaknesses (asks a service on the network)
	$(AUDIT)/bin/python -m pip_audit --requirement requirements.lock --no-deps --disable-pip --strict

sbom: $(AUDIT)/.installed  ## write a CycloneDX list of the locked versions (into SBOM=sbom.json)
	$(AUDIT)/bin/python -W ignore::UserWarning -m cyclonedx_py requirements requirements.lock --pyproject pyproject.toml \
	  --output-reproducible --output-file $(SBOM)

clean:  ## remove caches, builds and the demonstration; .venv stays
	rm -rf .audit .demo .mypy_cache .pytest_cache .ruff_cache build dist
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(PYTHON):
	@for candidate in $(CANDIDATES); do \
	  if $$candidate -c '$(SUPPORTED)' 2>/dev/null; then exec $$candidate -m venv $(VENV); fi; \
	done; echo "error: Python 3.11 to 3.14 with venv is needed; on Debian: apt-get install python3-venv" >&2; exit 1

# pip 25.1 is the first that knows --group.
$(VENV)/.installed: pyproject.toml requirements.lock _platform_first.py | $(PYTHON)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PYTHON) -m pip install --quiet --editable . --constraint requirements.lock
	touch $@

$(VENV)/.installed-dev: pyproject.toml requirements.lock _platform_first.py | $(PYTHON)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PYTHON) -m pip install --quiet --editable . --group dev --constraint requirements.lock
	touch $(VENV)/.installed $@

$(AUDIT)/.installed: pyproject.toml | $(PYTHON)
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --group audit
	touch $@
