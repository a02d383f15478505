# make setup   create the Python environment .venv with PyTorch, Detectron2 and QueryPose; demo, test, lint and docs run it first
# make demo    detect poses in photographs and train a small model (tools/quickstart.py);
#              make demo PHOTOS="a.jpg b.jpg" uses your photographs as well
# make test    run all tests
# make lint    run ruff and mypy
# make docs    build the documentation as a website in output/site
# make clean   remove the environment and all caches (not data sets or results)
#
# PYTHON=/path/to/python3.12 chooses the Python that .venv is made with (3.11 or newer).

SHELL := /bin/bash
PYTHON ?=
TEST_PROCESSES ?= 2
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --quiet

# Each step leaves a stamp, so a set-up that was interrupted resumes.
VENV_READY := $(VENV)/.ready-venv
TORCH_READY := $(VENV)/.ready-torch
DETECTRON2_READY := $(VENV)/.ready-detectron2
QUERYPOSE_READY := $(VENV)/.ready-querypose
DOCS_READY := $(VENV)/.ready-docs

.PHONY: setup demo test lint docs clean
.DELETE_ON_ERROR:

setup: $(QUERYPOSE_READY)

demo: setup
	@$(PY) tools/quickstart.py $(PHOTOS)

# One thread per test process: PyTorch would start as many as there are cores in each of them.
test: setup
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_PROCESSES)

lint: setup
	@$(PY) -m ruff check --quiet . && $(PY) -m mypy --no-error-summary && echo "lint: all checks passed"

# Pages, links and anchors are checked on the way; nothing is fetched when the site is built or read.
docs: $(DOCS_READY)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet && echo "docs: output/site/index.html"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV_READY):
	@if $(PY) -m pip --version >/dev/null 2>&1 && \
	    $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then touch $@; exit 0; fi; \
	for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv --clear $(VENV) && touch $@ && exit 0; \
	    rm -rf $(VENV); \
	    echo "error: '$$python -m venv' failed: install its venv module (Debian: python3-venv) and run make again" >&2; \
	    exit 2; \
	  fi; \
	done; \
	echo "error: QueryPose needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3.11" >&2; exit 2

$(TORCH_READY): | $(VENV_READY)
	@if ! $(PY) -c 'import torch, torchvision' 2>/dev/null; then \
	  echo "installing PyTorch (several gigabytes, several minutes)"; \
	  $(PIP) 'torch>=2.4' 'torchvision>=0.19' || \
	    { echo "error: pip could not install PyTorch: see its message above" >&2; exit 2; }; \
	fi
	@touch $@

$(DETECTRON2_READY): tools/install_detectron2.py tools/detectron2_patches.py $(TORCH_READY)
	@echo "installing Detectron2"
	@$(PY) tools/install_detectron2.py
	@touch $@

# The stamp holds this folder's path: an environment that was moved with its folder is linked anew.
ifneq ($(shell cat $(QUERYPOSE_READY) 2>/dev/null),$(CURDIR))
.PHONY: $(QUERYPOSE_READY)
endif
$(QUERYPOSE_READY): setup.py pyproject.toml $(DETECTRON2_READY)
	@echo "installing QueryPose and its dependencies"
	@$(PIP) --use-pep517 --editable '.[test]' || \
	  { echo "error: pip could not install QueryPose: see its message above" >&2; exit 2; }
	@# without its opencv-python, which would replace opencv-python-headless and needs libraries of a display
	@$(PIP) --no-deps 'trackers>=2.6' || { echo "error: pip could not install trackers: see its message above" >&2; exit 2; }
	@echo $(CURDIR) >$@

$(DOCS_READY): setup.py $(QUERYPOSE_READY)
	@echo "installing what builds the documentation"
	@$(PIP) --use-pep517 --editable '.[docs]' || \
	  { echo "error: pip could not install mkdocs: see its message above" >&2; exit 2; }
	@touch $@
