# Everything here sets itself up: a Python 3.11 or newer and make are all that a fresh machine needs.
# make run   the whole product on embedded services, with simulated traffic; Ctrl-C stops it
# make test  all tests that need no Java
# CONTRIBUTING.md tells of the other targets.

SHELL := /bin/bash
.DEFAULT_GOAL := run
.PHONY: run test check bench test-kafka test-ledger lock

BIN := .venv/bin
READY := .venv/.ready
FIND_PYTHON := for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done; true

run: $(READY)
	@$(BIN)/pointguard up --demo

test: $(READY)
	$(BIN)/pytest $(ARGS)

# The fault tests on a real Apache Kafka: KAFKA_BOOTSTRAP, else one of our own, which needs Java 17 and Maven.
test-kafka: $(READY)
	$(BIN)/pytest -m kafka $(ARGS)

# The proofs of the ledger at full length: random scripts, the bank test, kills. About an hour; ARGS='-k bank' for one.
test-ledger: $(READY)
	$(BIN)/pytest -m long -s $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/pip check
	$(BIN)/pytest -q tests/unit/test_tidy.py tests/unit/test_lock.py

bench: $(READY)
	$(BIN)/python -m bench.engine $(ARGS)
	$(BIN)/python -m bench.pipeline $(ARGS)
	$(BIN)/python -m bench.ledger $(ARGS)
	$(BIN)/python -m bench.links $(ARGS)
	$(BIN)/python -m bench.rules $(ARGS)
	$(BIN)/python -m bench.models $(ARGS)
	$(BIN)/python -m bench.backtest $(ARGS)

# Needs uv. Takes new versions only where a requirement asks for one; ARGS=--upgrade takes all there are.
lock:
	uv pip compile -q pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url \
		--python-version 3.11 --custom-compile-command "make lock" -o requirements.lock $(ARGS)

$(READY): requirements.lock pyproject.toml
	@set -e; \
	if [ ! -x $(BIN)/python ]; then \
		python="$$($(FIND_PYTHON))"; \
		if [ -z "$$python" ]; then \
			echo "PointGuard needs Python 3.11 or newer; python3 here is: $$(python3 --version 2>&1). Install one," \
				"or put it on the PATH as python3.11 or later, and run make again." >&2; exit 1; \
		fi; \
		"$$python" -m venv .venv || { rm -rf .venv; echo "$$python cannot make a virtual environment:" \
			"on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }; \
	fi; \
	echo "Setting up .venv: once, and again when requirements.lock changes"; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	touch $@
