# `make run` and `make test` set themselves up: see scripts/setup.sh. A second call finds the stamps and goes straight on.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-all check docs chaos setup clean

# Where this is set, as in many containers, every process compiles what it imports anew: 18 s for vLLM.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
SETUP_INPUTS := pyproject.toml scripts/cpu-overrides.txt

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{ printf "make %-9s %s\n", $$1, $$2 }'

run: .venv/.setup-done ## measure a safety landscape: make run ARGS="grid.steps=40 out=DIR"
	@$(PYTHON) -m orchestrator run $(ARGS)

test: .venv/.setup-done-test ## all tests but the slow ones and those that need a GPU
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-all: .venv/.setup-done-test ## every test that can run here
	@$(PYTHON) -m pytest $(ARGS)

check: .venv/.setup-done-test ## style, types and the rules between modules
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(PYTHON) -m pytest -q tests/contract

docs: .venv/.setup-done-test ## the documentation's site, into build/docs; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(PYTHON) -m mkdocs build --quiet
	@echo build/docs/index.html

chaos: .venv/.setup-done-test ## a sweep on three hosts while all that can die is killed: make chaos ARGS="--seconds 600"
	@$(PYTHON) -m tests.cluster.chaos $(ARGS)

setup: .venv/.setup-done ## only set up; ENGINE=cpu or ENGINE=gpu decides what is otherwise found out

clean: ## remove what set-up and tests made; studies stay
	rm -rf .venv .uv .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -type d -not -path "./studies/*" -prune -exec rm -rf {} +

.venv/.setup-done: $(SETUP_INPUTS)
	@scripts/setup.sh

.venv/.setup-done-test: $(SETUP_INPUTS)
	@scripts/setup.sh finetune dev
	@touch $@
