# make demo   build the environment and analyse the two bundled series of modular addition into demo/
# make test   build the environment and run the tests
# make browser   bring what drives a Chromium; with one on the PATH, make test then looks at the report in it
# make test-formats   the tests of formats with every library that writes one, in an environment of its own
# make test-lowest   the tests with the lowest versions that pyproject.toml allows, in an environment of its own
# make fuzz     damage checkpoints of every format at random, SECONDS each (60); with atheris where it is installed
# make docs   build the site into docs/_build/html; warnings are errors
# make lint   style, types and the import-layers contract
# make .venv  build the environment alone
# make clean  remove everything that these targets made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILT := $(VENV)/.complete
DOCS := $(VENV)/.docs
# A process a core, of one thread each: more threads than cores wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
WRITERS := .venv-formats
LOWEST := .venv-lowest
FORMAT_TESTS := tests/checkpoints tests/models tests/live/test_callbacks.py tests/cli/test_analyze_elsewhere.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-formats test-lowest fuzz fuzz-guided browser docs lint format clean

help:
	@sed -n 's/^# make /make /p' $(firstword $(MAKEFILE_LIST))

# The stamp is written last, so an interrupted build is taken up again.
$(VENV): $(BUILT)
	@touch $@

$(BUILT): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "geomdiag needs Python 3.11 or newer; $(PYTHON) is older or missing. Try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@

demo: $(VENV)
	@mkdir -p demo
	$(BIN)/geomdiag analyze fixtures/series/modadd-p31-* --task modadd --out demo/series.geomdiag.zarr

test: $(VENV)
	$(PYTEST)

test-all: $(VENV)
	$(PYTEST) -m ''

# The tests in a browser run where this and a Chromium are.
browser: $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test-browser]'

$(WRITERS)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(WRITERS)
	$(WRITERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test-formats]'
	@touch $@

# Here a test that skips for want of a library that the extra brings is a failure.
test-formats: $(WRITERS)/.complete
	GEOMDIAG_WRITERS_REQUIRED=1 OMP_NUM_THREADS=1 $(WRITERS)/bin/python -m pytest -n auto -m slow tests/live/test_callbacks.py
	GEOMDIAG_WRITERS_REQUIRED=1 OMP_NUM_THREADS=1 $(WRITERS)/bin/python -m pytest -n auto $(FORMAT_TESTS)

$(LOWEST)/.complete: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
	  -e '.[test,lightning,mlflow,onnx,orbax,tensorboard,tokenizers,wandb]'
	@touch $@

# What old libraries warn of in one another is not ours to mend.
test-lowest: $(LOWEST)/.complete
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n auto -W ignore::DeprecationWarning

SECONDS ?= 60
GUIDED := safetensors numpy flax onnx torchscript torch-export equinox
GUIDANCE ?= --seconds $(SECONDS)

fuzz: $(WRITERS)/.complete
	$(WRITERS)/bin/python fuzz/run.py --seconds $(SECONDS)
	@if $(WRITERS)/bin/python -c 'import atheris' 2>/dev/null; then $(MAKE) fuzz-guided; else \
	  echo "without atheris: $(WRITERS)/bin/pip install atheris brings coverage-guided fuzzing"; fi

fuzz-guided: $(WRITERS)/.complete
	@for one in $(GUIDED); do echo "$$one"; \
	  PYTHONHASHSEED=0 $(WRITERS)/bin/python fuzz/atheris_formats.py --format $$one $(GUIDANCE) >/tmp/geomdiag-fuzz.$$$$ 2>&1 \
	    || { cat /tmp/geomdiag-fuzz.$$$$; exit 1; }; rm -f /tmp/geomdiag-fuzz.$$$$; done

# The generator comes with the first build of the site, so that the environment itself stays quick to make.
$(DOCS): $(BUILT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS)
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going --nitpicky docs docs/_build/html

lint: $(VENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(WRITERS) $(LOWEST) demo build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
