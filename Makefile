# Everything runs in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo

# The networks of the demo and of the tests are small: a second thread costs more than it gives.
export OMP_NUM_THREADS ?= 1

# The tests start many processes: what one compiled, the next one reads.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test lint bench bench-samplers docs clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bfn-toolkit needs Python 3.11 or newer; found %d.%d. Write: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

demo: install  ## the main job: data, training, samples, scores, figures
	$(BIN)/bfn train --out $(RUN) --force

test: install lint  ## laws, command line, code blocks of README and docs
	$(BIN)/python -m pytest -n 2 $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

bench: install  ## ratios to bare torch, which docs/reference/benchmarks.md records
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.learning

bench-samplers: install  ## quality by evaluations of the network, which docs/background/samplers.md records: half an hour
	$(BIN)/python -m benchmarks.quality --write docs/background/samplers.md

docs: install
	$(BIN)/sphinx-build --quiet --fail-on-warning docs docs/_build/html

clean:
	rm -rf .venv build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
