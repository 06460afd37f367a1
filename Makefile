# Everything here needs only make and Python: the first target that runs makes .venv by itself.
#   make PYTHON=python3.12 TARGET     choose the interpreter
#   make TORCH_INDEX=URL TARGET       take torch from this index, such as https://download.pytorch.org/whl/cpu

PYTHON =
TORCH_INDEX =
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: help setup demo test test-system check protos clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' Makefile

setup: ## make .venv, or bring it up to date
	@PYTHON='$(PYTHON)' TORCH_INDEX='$(TORCH_INDEX)' sh .ci/setup

demo: setup ## six parked cars, three real models, three cars lost on the way
	@$(IN_VENV) carpool demo

test: setup ## the tests that need nothing but what pip installed
	@$(IN_VENV) python -m pytest tests -n 2 --dist worksteal --ignore=tests/system --ignore=tests/faults

test-system: setup ## the tests that need Debian packages, root or a Ray cluster
	@sh .ci/packages prometheus strace libfaketime e2fsprogs
	@$(IN_VENV) python -m pytest -rs tests/system tests/faults

check: setup ## lint, format, types, protos and layering; silent when all is well
	@$(IN_VENV) ruff check --quiet .
	@$(IN_VENV) ruff format --quiet --diff .
	@$(IN_VENV) mypy --no-error-summary
	@$(IN_VENV) buf lint --config protos/buf.yaml --path protos .
	@$(IN_VENV) python .ci/generate.py --check
	@$(IN_VENV) python .ci/layering.py

protos: setup ## generate the Python code beside protos/*.proto
	@$(IN_VENV) python .ci/generate.py

clean: ## remove .venv and everything that was built or cached here
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
