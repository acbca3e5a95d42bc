# Every command of the project. `make` alone lists them.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
NEEDS  := sys.version_info >= (3, 11)

.DEFAULT_GOAL := help
.PHONY: help run test check format bench tokenizer lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run .env ## set up on first use, then serve on http://127.0.0.1:5000
	@exec $(PY) app.py

test: $(VENV)/.dev ## run every test; needs no key and no internet
	$(PY) -m pytest -q --timeout 120

check: $(VENV)/.dev ## style, types and floors
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/test_floors.py

format: $(VENV)/.dev ## put the code into the house format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.dev ## print the table of benchmarks/README.md, about five minutes
	$(PY) -m benchmarks

tokenizer: $(VENV)/.run ## fetch tiktoken's file, for exact counts where a provider gives none (needs npm)
	$(PY) benchmarks/prime_tokenizer.py --out .tiktoken

lock: ## pin requirements*.txt anew, with hashes (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements.txt -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.lock requirements-dev.txt -o requirements-dev.lock

clean: ## remove what the other commands made, but for .env and logs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.env:
	@cp .env.example .env && chmod 600 .env && echo "Made .env from .env.example; put your GOOGLE_API_KEY there for real answers."

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not ($(NEEDS)))' || { echo "Python 3.11 or newer is needed: make run PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "This Python has no venv; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.run: requirements.lock | $(VENV)/bin/python
	@echo "Installing the locked packages (about half a minute)..."
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(VENV)/bin/python
	@echo "Installing the locked packages for development (about a minute)..."
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@ $(VENV)/.run
