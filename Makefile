# `make demo` shows what seqrl does, `make test` checks all of it, `make table` measures docs/table.md. Each needs only
# Python and make.
PYTHON ?= python3
BIN := .venv/bin

# pip leaves modules uncompiled; without files of what was compiled at a first import, each of the tests' many processes
# would compile all of PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo table test test-slow docs lint clean

# The stamp is made anew when what is to be installed changes. Modules are compiled when they are first imported: most
# of what is installed never is. The pip that comes with Python 3.11 takes twice as long to find out what to install.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("seqrl needs Python 3.11 or later: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/installed
	rm -rf demo
	$(BIN)/seqrl compare seqrl/MaskedCartPole-v0 --run-dir demo/masked_cartpole
	$(BIN)/seqrl compare seqrl/TMaze-v0 --env-kwargs length=30 --run-dir demo/tmaze

# Goes on where it was interrupted: runs that are done, under runs/table, are not done again.
table: .venv/installed
	$(BIN)/python -m benchmarks.table

test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not slow"

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

# The site, in build/site. What it needs is not part of what tests need.
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv demo build *.egg-info
