# make demo   a fresh machine to a page of pictures, in one command
# make test   lint, types, layering and every test, on all cores
# make check  the same with the quick tests alone, a few minutes
# make lint   all but the tests; scripts and the Dockerfile too
# make format ruff's fixes and layout
# make soak   faults at length: killed processes, failing storage, damaged images; about 40 minutes
# make bench  ratios against what else one would run, about 5 minutes on 2 cores; make bench-gpu on CUDA
# make docs   docs/settings.md and the types of the package, from the declarations of the settings
# make clean  remove what the others made
# make help   this list
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Many tests wait for processes of their own, so that one more than there are cores keeps these busy; a group of tests
# (tests/conftest.py) stays in one process, in its order, and more than nine would have nothing to do.
PROCESSES := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n + 1 : 9)))
IN_PARALLEL := -n $(PROCESSES) --no-loadscope-reorder
TEST_FLAGS ?=
BENCH_FLAGS ?=
# The viewer's JavaScript is checked by its types, where node is and its registry answers.
TSC := npx --yes -p typescript@5.9 tsc
# Where this is set, each of the suite's many hundred processes would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test check soak lint format bench bench-gpu docs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# The pinned set is tried first, so that what runs here is what was tested.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch $(READY)

# The demo needs no tools of the developers'.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt '.[demo]'
	touch $@

demo:
	@test -e $(READY) || $(MAKE) --no-print-directory $(VENV)/.demo
	$(BIN)/simsam demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=2 $(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck cluster/*.sh
	$(BIN)/hadolint Dockerfile
	@if $(TSC) --version > /dev/null 2>&1; then $(TSC) -p simsam_batch/viewer/page/jsconfig.json; \
	else echo "tsc is not to be had here: the types of the viewer's JavaScript are not checked" >&2; fi

test: lint
	$(BIN)/python -m pytest $(IN_PARALLEL) $(TEST_FLAGS)

check: lint
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not soak and not slow" $(TEST_FLAGS)

soak: $(READY)
	$(BIN)/python -m pytest $(IN_PARALLEL) -m soak $(TEST_FLAGS)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH_FLAGS)

bench-gpu: $(READY)
	$(BIN)/python -m benchmarks --device cuda $(BENCH_FLAGS)

docs: $(READY)
	$(BIN)/python docs/write_settings.py
	$(BIN)/python docs/write_signatures.py
	$(BIN)/python docs/write_column_words.py

clean:
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf $(VENV) demo-output .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
