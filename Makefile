# The six verbs. `make demo` and `make test` set up whatever they need.
.PHONY: setup demo test check bench clean
PYTHON ?= python3

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements/dev.txt
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@.venv/bin/pip install -qq --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@.venv/bin/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: setup
	@.venv/bin/ruff check --quiet . && .venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy --no-error-summary
	@PYTHONPATH=src .venv/bin/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
