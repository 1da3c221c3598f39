# What a person does with a checkout. `make demo` and `make test` work on a fresh machine that has python3 >= 3.11.

PYTHON ?= python3
BIN := .venv/bin
# Written last, so that a half-made environment is made again.
READY := .venv/.ready

.PHONY: demo up test bench chaos check pins clean

.venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is missing or older than Python 3.11; install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' cannot make virtual environments; install them (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	  exit 1; }
	@echo "Making .venv with the packages that constraints.txt pins ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

# Start everything, send, query, retrieve, compare, and leave nothing running.
demo: $(READY)
	$(BIN)/pacs-tasks demo

# The whole stack on this machine until Ctrl-C.
up: $(READY)
	$(BIN)/pacs-tasks up

# Tests wait for most of their time, so more of them run at once than there are cores.
test: $(READY)
	$(BIN)/python -m pytest -n 3 --dist worksteal

# Beside DCMTK and pynetdicom, on this machine. BENCH="--help" tells its options, BENCH="--small" is quick.
bench: $(READY)
	@$(BIN)/python -m tests.benchmarks $(BENCH)

# Kill, cut and fill up everything, and look whether anything was lost. CHAOS="--help" tells its options.
chaos: $(READY)
	@$(BIN)/python -m tests.chaos $(CHAOS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Renew the pins: the newest versions that pyproject.toml allows, for every platform, with the hashes of all their files.
PIN := build/pins/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
       --no-header --no-annotate pyproject.toml -
pins:
	$(PYTHON) -m venv build/pins
	build/pins/bin/python -m pip install --quiet --disable-pip-version-check uv
	echo 'setuptools>=77' | $(PIN) --extra dev --output-file constraints.txt
	echo 'setuptools>=77' | $(PIN) --constraints constraints.txt --output-file workers/constraints.txt

clean:
	rm -rf .venv build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
