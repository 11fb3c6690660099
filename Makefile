# make demo    set up, train and evaluate a small detector on drawn shapes, write pictures
# make test    set up, run the tests on all cores; before each commit: ARGS="-m 'not slow'"; what
#              combines what is tested in other combinations: ARGS="-m exhaustive"
# make compare set up, train and compare five encoders on the demo's detector, write a report
# make docs    set up, write the documentation to build/site, warnings as errors
# STACK=onedl does the same on the maintained fork of the OpenMMLab stack; PYTHON=python3.10 and
# TORCH=torch==2.1.2 on that Python and torch. Each combination has a folder of its own, .venv-...
# The set-up's other variables (MAX_JOBS, ...): tools/setup_environment.py
PYTHON ?= $(or $(shell command -v python3.11),python3)
ifneq ($(shell $(PYTHON) -c "print(1)" 2>/dev/null),1) # pyenv's, of a version that is not selected
override PYTHON := PYENV_VERSION=$(patsubst python%,%,$(notdir $(PYTHON))) $(PYTHON)
endif
SET_UP := STACK='$(STACK)' TORCH='$(TORCH)' $(PYTHON) tools/setup_environment.py
VENV := $(shell $(SET_UP) --folder)
ARGS ?=
# processes of the tests: all cores, at most 8; 0 runs them in one
WORKERS ?= logical

.PHONY: environment demo compare test lint docs
environment:
	@$(SET_UP)

demo: environment
	PATH="$(VENV)/bin:$$PATH" python tools/demo.py $(ARGS)

compare: environment
	PATH="$(VENV)/bin:$$PATH" python tools/compare.py \
	  mmdet_configs/dino/dino_lite0_focus_shapes.py --data shapes --train 2 \
	  --encoders dense sparse focus lite lite-focus --keep-ratios 0.1 0.3 0.5 \
	  --out work_dirs/compare $(ARGS)

test: environment
	PATH="$(VENV)/bin:$$PATH" python -m pytest -n $(WORKERS) --maxprocesses 8 \
	  --dist worksteal $(ARGS)

lint: environment
	PATH="$(VENV)/bin:$$PATH" ruff check .
	PATH="$(VENV)/bin:$$PATH" ruff format --check .
	PATH="$(VENV)/bin:$$PATH" mypy sparse_encoders tools/gpu tools/gpu_check.py

docs: environment
	PATH="$(VENV)/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
