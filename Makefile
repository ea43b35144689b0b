# From a clone: `make demo` shows the product at work, `make test` runs every check.
# Needs Python 3.11 or newer; everything else is installed into $(VENV), which may be deleted at any time.

VENV ?= .venv
WORKERS ?= 4
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PYTHONS ?= $(shell sed -n 's/.*Python :: \(3\.[0-9]*\)".*/python\1/p' pyproject.toml)
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --custom-compile-command "make lock"
ifdef CI # exactly what was resolved and looked at, by hash; `make lock` resolves again
INSTALL_DEV = $(PIP) install --require-hashes --requirement config/locks/dev.txt && \
  $(PIP) install --no-deps --no-build-isolation --editable .
else
INSTALL_DEV = $(PIP) install --upgrade 'pip>=25.1' && $(PIP) install --editable '.[aws,credentials,fleet,listing,s3]' --group dev
endif

.DEFAULT_GOAL := help
.PHONY: help demo test versions lint format bench soak storm examples events lock pictures release man docs clean
MAKEFLAGS += --no-print-directory
# Images of Python set it; without compiled modules each of a thousand processes of the tests compiles them again.
export PYTHONDONTWRITEBYTECODE =

help:  ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' Makefile | expand -t 14

demo: $(VENV)/.runtime  ## files change and the edge becomes fresh, with an emulated CDN
	@$(BIN)/cdn-listener demo

test: lint  ## all checks: lint, types, layers, tests with coverage
	@tests/system-packages
	@$(BIN)/pytest --quiet --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder \
	  --cov --cov-report=
	@echo "coverage of vocabulary, pure parts and store:"
	@$(BIN)/coverage report --skip-covered --fail-under=95
	@tests/system-packages --report

versions:  ## all checks on each installed Python that pyproject.toml supports (or PYTHONS="/path/to/python3.13 …")
	@for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { \
	    echo "NOT TESTED: $$python is absent" >&2; continue; }; \
	  echo "Python $$version"; $(MAKE) PYTHON=$$python VENV=.venv-$$version test || exit; done

lint: $(VENV)/.dev  ## style, types, layers
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >$(VENV)/.layers || { cat $(VENV)/.layers; exit 1; }

format: $(VENV)/.dev  ## rewrite the code in the common style
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

bench: $(VENV)/.dev  ## measure; bench/README.md has the results
	@for file in bench/[a-z]*.py; do $(BIN)/python -m bench.$$(basename $$file .py) || exit; done

soak: $(VENV)/.dev  ## the slow tests, and long searches of the state machines
	@HYPOTHESIS_PROFILE=soak $(BIN)/pytest --quiet --timeout=0 -m ""

storm: $(VENV)/.dev  ## take away the daemon, or a fleet's leader and database, hundreds of times while files change
	@$(BIN)/python -m tests.product.crash.storm --kills 200
	@$(BIN)/python -m tests.product.crash.storm --kills 200 --once --keys 300
	@$(BIN)/python -m tests.product.crash.cloudflare_storm --kills 100
	@$(BIN)/python -m tests.product.crash.cloudfront_storm --kills 100
	@$(BIN)/python -m tests.product.fleet.storm --events 300
	@$(BIN)/python -m tests.product.fleet.storm --events 300 --pool
	@$(BIN)/python -m tests.product.fleet.storm --events 300 --kinds kill,freeze,cut,promote
	@$(BIN)/python -m tests.product.fleet.storm --events 300 --kinds kill,freeze,cut,promote,lose

examples: $(VENV)/.dev  ## generate config/examples/full.toml and the units that share sandbox settings
	@$(BIN)/python -m tests.repository.full_example > config/examples/full.toml.new
	@mv config/examples/full.toml.new config/examples/full.toml
	@$(BIN)/python -m tests.repository.units >/dev/null

events: $(VENV)/.dev  ## write docs/logs.md from the log calls; meanings are kept
	@$(BIN)/python -m tests.telemetry.log_events > docs/logs.md.new
	@mv docs/logs.md.new docs/logs.md

lock: $(VENV)/.created  ## resolve pyproject.toml again into config/locks, with hashes
	@$(PIP) install --upgrade 'pip>=25.1' && $(PIP) install --group lock
	@$(LOCK) pyproject.toml --extra aws --extra credentials --extra fleet --extra s3 --output-file config/locks/image.txt
	@$(LOCK) --group image --output-file config/locks/build.txt
	@$(LOCK) pyproject.toml --all-extras --group dev --output-file config/locks/dev.txt

pictures: $(VENV)/.dev  ## take the pictures of the status page in docs/images
	@$(BIN)/python -m tests.product.page.pictures

release: $(VENV)/.dev  ## build and check a release into dist/, and publish nothing
	@$(PIP) install --upgrade 'pip>=25.1' && $(PIP) install --group release
	@PYTHON=$(BIN)/python .github/release

man: $(VENV)/.runtime  ## write the manual page to build/cdn-listener.1
	@mkdir -p build && $(BIN)/cdn-listener --print-man > build/cdn-listener.1 && echo "man -l build/cdn-listener.1"

docs: $(VENV)/.dev  ## build the site into docs/_build
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

clean:  ## remove the virtual environment and what tools left
	@rm -rf $(VENV) .venv-* build dist docs/_build .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot create virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.created pyproject.toml
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml $(if $(CI),config/locks/dev.txt)
	@$(INSTALL_DEV)
	@touch $@ $(VENV)/.runtime
