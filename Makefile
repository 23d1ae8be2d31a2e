# `make demo` and `make test` work from a bare machine with Python 3.11: each creates .venv first. `make demo ARGS=--force` runs it again.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow lint training clean

demo: $(VENV)/.installed
	$(BIN)/adjointdpm demo $(ARGS)

# One thread for each of as many workers as there are cores: threads of two workers on one core wait for each other for ever.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# What takes under about five seconds a test; `make test-slow` runs the others.
test: $(VENV)/.installed-dev
	$(PYTEST) -m 'not slow'

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python

# The site, in build/site; a broken link is an error.
.PHONY: docs
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Every pipeline class of diffusers against full backpropagation: once in a while, not in CI.
.PHONY: pipelines
pipelines: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.pipelines --again --page docs/pipelines.md

# Every task killed at random moments, resumed, and compared with runs that nobody killed.
.PHONY: soak
soak: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.soak --again --page docs/interruption.md

# Faulty inputs by the thousand, a quarter of an hour or more; a share of them is among the slow tests.
.PHONY: fuzz
fuzz: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(ARGS)

training: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[training,judges]'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[judges,tensorboard,plots]'
	@touch $@

# pip learned `--group` in 25.1; the one that ships with Python 3.11 is older.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[training,judges,tensorboard,plots,app]' --group dev --group docs
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
