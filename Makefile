# `make demo` and `make test` set up whatever they need; the other verbs are their parts.
.PHONY: setup demo test check unit bench lock-dev
PYTHON ?= python3
PYTEST = .venv/bin/python -m pytest
# A test that passes only the second time is named with what it said; more than three of them are a failure.
ONCE_MORE = --reruns 1 --max-suite-reruns 3 --rerun-show-tracebacks
SLOWEST = --durations 15 --durations-min 5

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements/dev.txt
	@echo "Installing what it needs into .venv (once)" >&2
	@test -x .venv/bin/pip || scripts/make-venv $(PYTHON)
	@.venv/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@.venv/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@scripts/with-bundle .venv/bin/python -m demo.demo

check: setup
	@.venv/bin/ruff check --quiet . && .venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy --no-error-summary
	@PYTHONPATH=src .venv/bin/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }

unit: setup
	@$(PYTEST) -n 2 tests/unit

test: setup
	@scripts/step "ruff, mypy, import-linter" $(MAKE) --no-print-directory check
	@scripts/step "what the tests need" tests/integration/install.sh
	@export GRAFTBOX_TEST_STRICT=1; failed=0; \
	scripts/step "unit tests" $(PYTEST) -n 2 $(ONCE_MORE) $(SLOWEST) tests/unit || failed=1; \
	scripts/step "the bundles, conformance and integration tests" \
		scripts/with-bundle $(PYTEST) $(ONCE_MORE) $(SLOWEST) tests/conformance tests/integration || failed=1; \
	exit $$failed

bench: setup
	@tests/integration/install.sh
	@scripts/with-bundle .venv/bin/python -m benchmarks

# Pins requirements/dev.in anew; needs uv.
lock-dev:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --allow-unsafe --upgrade -o requirements/dev.txt requirements/dev.in
