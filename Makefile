# `make run` and `make test` install what they need (scripts/setup.sh) and leave a stamp file in .venv; a second call finds
# the stamp and starts at once.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run quick test test-all fuzz lint check docs figures harness chaos setup lock audit sbom image clean

# Many containers set this. Every process would then compile its imports again: 18 s for vLLM.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
SETUP_INPUTS := pyproject.toml scripts/cpu-overrides.txt $(wildcard scripts/locks/*.txt)

help: ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | awk -F '\t' '{ printf "make %-9s %s\n", $$1, $$2 }'

run: .venv/.setup-done ## measure a safety landscape: make run ARGS="grid.steps=40 out=DIR"
	@$(PYTHON) -m orchestrator run $(ARGS)

quick: .venv/.setup-done-test ## contract tests and fast unit tests: under two minutes on two cores
	@$(PYTHON) -m pytest -q -n 2 --dist loadfile -m "not thorough and not slow and not engine and not gpu" tests/contract tests/unit $(ARGS)

test: .venv/.setup-done-test ## run all tests except the slow ones and those that need a GPU
	@$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-all: .venv/.setup-done-test ## run every test that this machine can run
	@$(PYTHON) -m pytest $(ARGS)

fuzz: .venv/.setup-done-test ## feed new random input to every parser, 50 times as much as make test: make fuzz ARGS="--fuzz-factor 500 -k footers"
	@$(PYTHON) -m pytest -q tests/fuzz --fuzz-factor 50 $(ARGS)

lint: .venv/.setup-done-test ## check style and types
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy

check: lint ## check style, types and the rules between modules
	@$(PYTHON) -m pytest -q tests/contract

docs: .venv/.setup-done-test ## build the documentation site into build/docs; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(PYTHON) -m mkdocs build --quiet
	@echo build/docs/index.html

figures: .venv/.setup-done-test ## measure what is missing, draw all figures and write all measured numbers of the documentation
	@$(PYTHON) -m scripts.figures $(ARGS)

harness: .venv/.setup-done-test ## install lm-evaluation-harness into .venv-harness and write its scores of the test questions
	@$(PYTHON) -m tests.harness.environment

chaos: .venv/.setup-done-test ## run a sweep on three hosts while processes are killed at random: make chaos ARGS="--seconds 600"
	@$(PYTHON) -m tests.cluster.chaos $(ARGS)

setup: .venv/.setup-done ## install only; ENGINE=cpu or ENGINE=gpu overrides the detection of GPUs

lock: ## write the locks in scripts/locks anew after a change of pyproject.toml: make lock ARGS="--upgrade-package NAME"
	@scripts/lock.sh $(ARGS)

audit: ## ask PyPI whether a locked version has a known vulnerability; ARGS=--offline compares with a stored copy
	@scripts/supply_chain.sh audit $(ARGS)

sbom: .venv/.setup-done ## write a bill of materials of .venv to build/sbom.json (CycloneDX)
	@scripts/supply_chain.sh sbom

image: ## build the CPU image with buildah on a base of Debian's packages; needs root, buildah and debootstrap
	@docker/build_image.sh cpu debian

clean: ## remove what setup and tests created; keep studies
	rm -rf .venv .venv-harness .venv-tools .uv .pytest_cache .hypothesis .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -type d -not -path "./studies/*" -prune -exec rm -rf {} +

.venv/.setup-done: $(SETUP_INPUTS)
	@scripts/setup.sh

.venv/.setup-done-test: $(SETUP_INPUTS)
	@scripts/setup.sh finetune dev
	@touch $@
