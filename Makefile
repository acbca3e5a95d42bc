# Every command of the project. `make` alone lists them.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
CHROMIUM := chromium chromium-browser google-chrome
SEED   ?= 1
WORKERS ?= 2
NEEDS  := sys.version_info >= (3, 11)

.DEFAULT_GOAL := help
.PHONY: help run test browser check format bench bench-ledger savings tokenizer chaos chaos-storm chaos-outage chaos-streams chaos-crosstalk chaos-kill chaos-budget chaos-postgres chaos-disk chaos-replay lock clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run .env ## set up on first use, then serve on http://127.0.0.1:5000
	@exec $(PY) app.py

test: $(VENV)/.dev browser ## run every test, on WORKERS=2 processes; needs no key and no internet
	$(PY) -m pytest -q --timeout 300 -n $(WORKERS) --dist loadfile

browser: ## find Chromium, which tests of the dashboard drive, or install it (root on Debian)
	@$(foreach name,$(CHROMIUM),command -v $(name) >/dev/null ||) \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the tests of the dashboard (about a minute)..."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; \
	else \
		echo "There is no Chromium: tests of the dashboard in a browser are skipped. On Debian: sudo apt-get install chromium"; \
	fi

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

bench-ledger: $(VENV)/.dev ## hits, reports and exports beside a million rows, about seven minutes
	$(PY) -m benchmarks.big_ledger

savings: $(VENV)/.dev ## prove that paid + saved is the cost without the cache, about five minutes
	$(PY) -m benchmarks.savings

chaos: $(VENV)/.dev ## break a served platform in every way that chaos/README.md lists, about 18 minutes
	$(PY) -m chaos all --seed $(SEED)

chaos-storm: $(VENV)/.dev ## 5,000 requests, 30 % faults of 40 kinds: ledger = headers = the providers' journal
	$(PY) -m chaos storm --seed $(SEED)

chaos-outage: $(VENV)/.dev ## no provider for a minute at 50 requests a second: no more calls, quick refusals, soon over
	$(PY) -m chaos outage --seed $(SEED)

chaos-streams: $(VENV)/.dev ## 1,000 streams, faults and readers who leave: each billed once, nothing left over
	$(PY) -m chaos streams --seed $(SEED)

chaos-crosstalk: $(VENV)/.dev ## 2 tenants x 20,000 requests over two processes, hanging up at random: no answer crosses
	$(PY) -m chaos crosstalk --seed $(SEED)

chaos-kill: $(VENV)/.dev ## kill -9, 100 times under load: no acknowledged row is lost, none is doubled
	$(PY) -m chaos kill --seed $(SEED)

chaos-budget: $(VENV)/.dev ## bursts on keys with little room, a process killed: no budget is overshot, none is left unused
	$(PY) -m chaos budget --seed $(SEED)

chaos-postgres: $(VENV)/.dev ## stop, freeze and kill PostgreSQL under load: no failed reply, no lost row
	$(PY) -m chaos postgres --seed $(SEED)

chaos-disk: $(VENV)/.dev ## a disk of 1 MB runs full: no 200 without a row (needs root, for mount)
	$(PY) -m chaos disk --seed $(SEED)

chaos-replay: $(VENV)/.dev ## 1,000 Idempotency-Keys, each five times at once, in two processes and over restarts: 1,000 calls
	$(PY) -m chaos replay --seed $(SEED)

tokenizer: $(VENV)/.run ## fetch tiktoken's file, for exact counts where a provider gives none (needs npm)
	$(PY) benchmarks/prime_tokenizer.py --out .tiktoken

lock: ## pin requirements*.txt anew, with hashes (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements.txt -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements.lock requirements-dev.txt -o requirements-dev.lock

clean: ## remove what the other commands made, but for .env, logs and data
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
