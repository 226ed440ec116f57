# A fresh machine needs Python >= 3.11, pip and make. Everything else comes from pinned versions.
PYTHON ?= python3
VENV ?= .venv
# Which torch build: see "Choosing a build of torch" in the README.
TORCH_ARGS ?=
BIN = $(VENV)/bin
export HF_HUB_OFFLINE = 1
export HF_DATASETS_OFFLINE = 1

.PHONY: install demo check format test test-slow clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch $(TORCH_ARGS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/python scripts/demo.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: install
	$(BIN)/python -m pytest -m "not slow" -n auto

test-slow: install
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf runs build dist
