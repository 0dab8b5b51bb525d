# make setup       the environment of a developer, with the hooks that check a commit
# make demo        the main job: train YOLO26n on drawn shapes, watched (no download of data)
# make test        everything that a change must pass: lint, types, tests with real trainings
# make test-ray    the tests with Ray, which has an environment of its own; part of make test
# make test-fast   the tests without trainings, processes and browsers, in a minute on two cores
# make docs        the documentation as a site, in site/; fails on a dead link or name
# make coverage    make test, and which lines no test runs: a quarter slower
# Each makes its own virtual environment first; VENV=... puts it elsewhere.

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python -m

.PHONY: setup demo test test-ray coverage test-fast lint docs clean

setup: $(VENV)/.installed-dev
	$(RUN) pre_commit install

demo: $(VENV)/.installed
	$(VENV)/bin/yolo-gradwatch demo

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(RUN) pytest -n auto
	$(MAKE) test-ray

# Ray has its own environment: where it is installed, Ultralytics' callback for it warns in every training.
test-ray: $(VENV)/.installed-ray
	OMP_NUM_THREADS=1 $(VENV)/ray/bin/python -m pytest tests/watch/test_trial.py

coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) pytest -n auto --cov --cov-report=term-missing:skip-covered

test-fast: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(RUN) pytest -n auto -m "not train and not slow"

lint: $(VENV)/.installed-dev
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports

docs: $(VENV)/.installed-docs
	$(VENV)/bin/zensical build --strict --clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(RUN) pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-ray: $(VENV)/.installed-dev
	$(PYTHON) -m venv $(VENV)/ray
	$(VENV)/bin/python -c "import sysconfig; print(f'import site; site.addsitedir({sysconfig.get_path(\"purelib\")!r})')" > $$(echo $(VENV)/ray/lib/python*/site-packages)/dev.pth
	$(VENV)/ray/bin/python -m pip install --quiet 'ray[tune]>=2.41'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(RUN) pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv .coverage .mypy_cache .pytest_cache .ruff_cache gradwatch-demo runs site
