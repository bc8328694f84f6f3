# make demo   set up, then run the whole study on the tiny preset
# make test   set up, then run the tests
# make check  format, lint, types, tests
# make setup  only set up (PYTHON=... picks the interpreter)

SHELL := /bin/bash
.DEFAULT_GOAL := help
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
PYTHON ?=
RUN := .venv/bin/python
export UV_PYTHON_DOWNLOADS = never
export UV_SYSTEM_CERTS = 1

.PHONY: help setup demo test check
help:
	@sed -n 's/^# //p' Makefile | head -4

setup: .venv/.ready
	@scripts/system_gl.sh

.venv/.ready: uv.lock pyproject.toml
	@command -v $(UV) >/dev/null || { python3 -m venv .tools && .tools/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9'; }
	$(UV) sync --locked $(if $(PYTHON),--python $(PYTHON)) --quiet
	@touch $@

demo: setup
	$(RUN) scripts/run_experiment.py --all-phases --all-subsets preset=tiny

test: setup
	@if [ -d ../shared/libero_assets ] && [ -z "$$LIBERO_ASSETS_PATH" ]; then export LIBERO_ASSETS_PATH="$$(cd ../shared/libero_assets && pwd)"; fi; \
	$(RUN) -m pytest -q -n 2 --dist loadfile --max-worker-restart 0 --durations 10

check: setup
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	.venv/bin/basedpyright
	$(MAKE) test
