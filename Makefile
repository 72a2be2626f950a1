# Everything runs in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
# Not in constraints.txt: which of its builds fits, and so its hash, depends on the index that pip is told to use.
TORCH := torch==2.13.0
# No training, no processes: laws of the mathematics, configuration, registry, and what the source must not hold.
FAST := tests/test_*.py tests/config tests/registry/test_registry.py tests/repository/test_layers.py tests/repository/test_safety.py

# The networks of the demo and of the tests are small: a second thread costs more than it gives.
export OMP_NUM_THREADS ?= 1

# The tests start many processes: what one compiled, the next one reads.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test fast laws fuzz lint format bench bench-samplers bench-data bench-tables gpu zoo notebooks gallery lock docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r target words; do printf '  make %-15s %s\n' "$$target" "$$words"; done

install: .venv/installed  ## make .venv, with the versions of constraints.txt

.venv/installed: pyproject.toml constraints.txt zoo/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bfn-toolkit needs Python 3.11 or newer; found %d.%d. Write: make PYTHON=python3.11" % sys.version_info[:2])'
	@command -v nvidia-smi > /dev/null || [ -n "$$PIP_EXTRA_INDEX_URL" ] || echo 'On Linux this takes a torch with CUDA (several GB);' \
		'for the CPU alone: export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation $(TORCH) --editable '.[dev,docs]' --editable zoo
	touch $@

demo: install  ## the main job: data, training, samples, scores, figures, in runs/demo
	$(BIN)/bfn train --out $(RUN) --force
	@echo 'bfn is in $(BIN); to have it on the path of this shell: source $(BIN)/activate'

# Each of the two processes takes neighbouring tests, so that what a file shares is made once.
test: install lint  ## all of it: linters, types, laws, command line, code blocks of README and docs
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST)

fast: install  ## laws and unit tests, in less than a minute: while you work
	$(BIN)/python -m pytest -n 2 -q $(FAST) $(PYTEST)

laws: install  ## every law on every correct subject under five seeds, and on every mutant: half an hour
	BFN_THOROUGH_LAWS=1 $(BIN)/python -m pytest -n 2 -q tests/laws $(PYTEST)

fuzz: install  ## damaged files of every kind for MINUTES=5 from SEED=0; what breaks a promise is kept in fuzz-failures/
	$(BIN)/python -m tests.robustness.fuzz --minutes $(or $(MINUTES),5) --seed $(or $(SEED),0)

lint: install  ## ruff, spelling, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml

format: install  ## let ruff mend and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## ratios to bare torch, which docs/reference/benchmarks.md records
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.learning
	$(BIN)/python -m benchmarks.networks

bench-samplers: install  ## quality of samples by evaluations of the network, which docs/reference/sampler_tables.md records: half an hour
	$(BIN)/python -m benchmarks.quality --write docs/reference/sampler_tables.md

# What is saved is kept: OPTIONS=--list shows it, OPTIONS='--only NAME --again' measures it anew.  Two of them share the work.
bench-data: install  ## what is learned from images, text, strings and points, beside peers, which docs/reference/results.md records: hours
	$(BIN)/python -m benchmarks.data $(OPTIONS)
	$(BIN)/python -m benchmarks.data --write docs/reference/results.md

bench-tables: install  ## mixed tables beside other generators, which docs/reference/results_tables.md records: hours
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.tables --write docs/reference/results_tables.md

gpu: install  ## what must hold on a CUDA device, in 8 minutes, which docs/reference/gpu.md records; nothing without one
	$(BIN)/python -m benchmarks.gpu --write docs/reference/gpu.md

notebooks: install  ## execute the notebooks of the tutorials, and store their outputs
	$(BIN)/python docs/notebooks.py

gallery: install  ## make the figures of docs/gallery.md by the blocks that stand there: some minutes
	$(BIN)/python docs/gallery.py

zoo: install  ## train the models of zoo/ by their recipes, or only those of ONLY="digits moons"; all of them take an hour
	$(BIN)/python zoo/build.py $(ONLY)

lock:  ## new hashes, and with UPGRADE=--upgrade new versions, in constraints.txt; needs uv, and downloads no package
	uv pip compile --quiet --universal --generate-hashes --no-annotate --custom-compile-command 'make lock' $(UPGRADE) \
		--extra dev --extra docs --no-emit-package torch pyproject.toml --output-file constraints.txt
	awk '/^[a-z]/ { cuda = /^(nvidia|cuda|triton)/ } !cuda' constraints.txt > constraints.new  # torch brings those that it needs
	mv constraints.new constraints.txt

docs: install  ## the pages with the reference of the Python API, in docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning docs docs/_build/html

clean:  ## remove .venv and all that was built
	rm -rf .venv build dist docs/_build .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
