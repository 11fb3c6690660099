# make demo    set up, train and evaluate a small detector on drawn shapes, write pictures
# make test    set up, run the tests
# make docs    set up, write the documentation to build/site, warnings as errors
# STACK=onedl does the same on the maintained fork of the OpenMMLab stack, in .venv-onedl.
# The set-up's own variables (TORCH, MAX_JOBS, ...): tools/setup_environment.py
PYTHON ?= $(or $(shell command -v python3.11),python3)
STACK ?= openmmlab
export STACK
VENV := $(abspath $(or $(SPARSE_ENCODERS_VENV),.venv$(if $(filter-out openmmlab,$(STACK)),-$(STACK))))
ARGS ?=

.PHONY: environment demo test lint docs
environment:
	@$(PYTHON) tools/setup_environment.py --venv "$(VENV)"

demo: environment
	PATH="$(VENV)/bin:$$PATH" python tools/demo.py $(ARGS)

test: environment
	PATH="$(VENV)/bin:$$PATH" python -m pytest $(ARGS)

lint: environment
	PATH="$(VENV)/bin:$$PATH" ruff check .
	PATH="$(VENV)/bin:$$PATH" ruff format --check .
	PATH="$(VENV)/bin:$$PATH" mypy sparse_encoders

docs: environment
	PATH="$(VENV)/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
