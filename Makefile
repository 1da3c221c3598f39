# The commands of a checkout. `make demo` and `make test` need python3 >= 3.11, and nothing else.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
# Each stamp is written last, so that a half-made environment is made again.
PACKAGE := .venv/.package
TOOLS := .venv/.tools
SITE := .venv/.site

# Tests and demo start hundreds of processes: each of them would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo up test test-all test-rest compose-test bench chaos fuzz check audit sbom docs pins clean

.venv: $(TOOLS)

# pip is silent for most of a minute; this counts the packages as it fetches them.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes
COUNT = awk -v total="$$(grep -c '^[a-z0-9]' $(1))" -v live="$$(test -t 2 && echo 1)" \
  '/^Collecting|^Requirement already/ { count++; \
     if (live) printf "\r  %d of at most %d packages ", count, total; else if (count % 20 == 0) print "  " count " packages"; \
     fflush() } \
   /^Installing/ { if (live) print ""; print "  installing them ..."; fflush() }'

$(PACKAGE): pyproject.toml workers/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is missing or older than Python 3.11. Install a newer one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' cannot make virtual environments. Install python3-venv (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
	  exit 1; }
	@echo "Making the virtual environment .venv ..."
	@$(PYTHON) -m venv .venv
	@echo "Installing the packages that pacs-tasks needs (pinned in workers/constraints.txt) ..."
	@$(INSTALL) -r workers/constraints.txt | $(call COUNT,workers/constraints.txt)
	@echo "Installing pacs-tasks from this checkout ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(TOOLS): $(PACKAGE) constraints.txt
	@echo "Installing the tools that tests and checks need (pinned in constraints.txt) ..."
	@$(INSTALL) -r constraints.txt | $(call COUNT,constraints.txt)
	@touch $@

# Start everything, send, query, retrieve, compare, and leave nothing running.
demo: $(PACKAGE)
	$(BIN)/pacs-tasks demo

# The whole stack on this machine until Ctrl-C.
up: $(PACKAGE)
	$(BIN)/pacs-tasks up

# Tests wait for a part of their time, so one more of them runs than most machines have cores.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal
# What `make test` leaves out, since it takes longest: whole programs as peers, thousands of conversations, failures.
THOROUGH := thorough

test: $(TOOLS)
	$(PYTEST) -m "not $(THOROUGH)"

test-rest: $(TOOLS)
	$(PYTEST) -m "$(THOROUGH)"

test-all: $(TOOLS)
	$(PYTEST)

# Build the image and bring the compose file up for real; it says so where there is no container engine.
compose-test: $(TOOLS)
	@$(BIN)/python -m tests.compose

# Beside DCMTK and pynetdicom, on this machine. BENCH="--help" shows its options, BENCH="--small" is quick.
bench: $(TOOLS)
	@$(BIN)/python -m tests.benchmarks $(BENCH)

# Kill, cut and fill up everything, and check that nothing was lost. CHAOS="--help" shows its options.
chaos: $(TOOLS)
	@$(BIN)/python -m tests.chaos $(CHAOS)

# A million inputs gone wrong. FUZZ="--help" shows its options.
fuzz: $(TOOLS)
	@$(BIN)/python -m tests.fuzz $(FUZZ)

check: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 -p pacs_tasks -p workers -m dicom_pacs_transfer
	$(BIN)/lint-imports

AUDIT := build/audit
$(AUDIT)/.made: workers/audit-constraints.txt
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r $<
	@touch $@

# Known vulnerabilities of the pinned packages; it says so where no list of them can be reached. AUDIT_OPTIONS="--help".
audit: $(AUDIT)/.made
	@$(PYTHON) .ci/audit.py $(AUDIT)/bin/pip-audit workers/constraints.txt constraints.txt $(AUDIT_OPTIONS)

# What the environment holds, in CycloneDX. The image has its own in /opt/pacs-tasks/sbom.cdx.json.
sbom: $(AUDIT)/.made $(PACKAGE)
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --output-file build/sbom.cdx.json $(BIN)/python

# Generate the reference from the code, and build the site in build/site. It works without a network.
docs: $(SITE)
	$(BIN)/python -m docs.generator
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean
	@echo "Open build/site/index.html"

$(SITE): $(PACKAGE) docs/constraints.txt
	@echo "Installing the packages that build the site (pinned in docs/constraints.txt) ..."
	@$(INSTALL) -r docs/constraints.txt | $(call COUNT,docs/constraints.txt)
	@touch $@

# Renew the pins: the newest versions that pyproject.toml allows, for every platform, with the hashes of all their files.
PIN := build/pins/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
       --no-header --no-annotate pyproject.toml -
pins:
	$(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --quiet --disable-pip-version-check uv
	echo 'setuptools>=77' | $(PIN) --extra dev --extra all --output-file constraints.txt
	echo 'setuptools>=77' | $(PIN) --extra all --constraints constraints.txt --output-file workers/constraints.txt
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["audit"], sep="\n")' \
	  | $(PIN:pyproject.toml=) --output-file workers/audit-constraints.txt
	# The extra alone: what the checkout has is in constraints.txt.
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  | $(PIN:pyproject.toml=) --constraints constraints.txt --output-file docs/constraints.txt

clean:
	rm -rf .venv build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
