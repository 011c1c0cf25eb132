# The two commands a newcomer needs: `make demo` and `make test`. Both make their own environment.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.made

BENCHED := $(VENV)/.benched
SITED   := $(VENV)/.sited

# All that pages link to, copied beside them: links work on the site as they do here.
PAGES   := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE docs examples tests/support/independent_restorer.py

# Four tests at once starve each other's processes on a slow machine. What failed then runs once more by itself,
# as CPython's own tests do: what is wrong fails again, and what only raced stays named in the summary above it.
ALONE = echo 'Once more, one at a time:' && $(BIN)/pytest --last-failed --maxfail=3

# Where the environment forbids compiled files, each of the thousand processes that the tests start compiles the
# package anew: a third of all the time that they need.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: test quick unit soak mutate demo bench bench-full docs check lint types layers compiled collected tests format clean

test: lint
	$(MAKE) --no-print-directory -j 2 types layers collected
	$(MAKE) --no-print-directory tests

quick: lint
	$(MAKE) --no-print-directory -j 2 types layers unit

soak: $(STAMP)
	SHARDCAST_SOAK_KILLS=100 $(BIN)/pytest tests/faults/test_soak.py tests/faults/test_backup_kills.py
	SHARDCAST_SWARM_NODES=100 $(BIN)/pytest -W ignore::ResourceWarning tests/faults/test_swarm_crowd.py
	SHARDCAST_SOAK_CELLS=all $(BIN)/pytest -n 4 tests/faults/test_disk_faults.py
	SHARDCAST_POWER_STATES=1000000 $(BIN)/pytest tests/faults/test_power_cuts.py tests/faults/test_power_cuts_of_stores.py

mutate: $(STAMP)
	$(BIN)/python scripts/mutate --json build/mutate.json $(MUTATE)

demo: $(STAMP)
	$(BIN)/shardcast demo $(FILE)

bench: $(BENCHED)
	$(BIN)/python scripts/bench --json build/bench/quick.json --plots build/bench $(BENCH)

bench-full: $(BENCHED)
	$(BIN)/python scripts/bench --full --json build/bench/full.json --plots build/bench $(BENCH)

docs: $(SITED)
	rm -rf build/pages && mkdir -p build/pages
	tar cf - --exclude __pycache__ $(PAGES) | tar xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'Open build/docs/index.html'

check: lint types layers

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

compiled: $(STAMP)
	$(BIN)/python -m compileall -q shardcast tests/support

# Once, rather than once in each of four workers.
collected: compiled
	$(BIN)/pytest -q --collect-only -p no:cacheprovider >/dev/null || true # what can't be collected fails below

tests: compiled
	$(BIN)/python scripts/peers install --quiet || true
	$(BIN)/pytest -n 4 --dist loadgroup || { test $$? = 1 && $(ALONE); }

unit: compiled
	$(BIN)/pytest -q -n 4 --dist loadgroup --hypothesis-profile quick tests/unit

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "shardcast needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(BENCHED): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	$(BIN)/python scripts/peers install --bench --quiet || true
	touch $@

$(SITED): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) .peers build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
