# `make demo` and `make test` set up .venv first. Needs Python 3.10 or later, make and g++.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto

# QKeras for the legacy Keras beside that for Keras 3: where PYTHONPATH names this folder, the legacy Keras is here.
LEGACY := $(VENV)/legacy-keras
QKERAS := $(shell grep -o 'qkeras==[0-9.]*' pyproject.toml)

.PHONY: demo test quick fuzz lint clean

demo: $(VENV)/.ready
	$(BIN)/bnnflow demo --output-dir demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n $(WORKERS) -m "not long"
	PYTHONPATH=$(LEGACY) $(BIN)/python -m pytest -n $(WORKERS) tests/test_contracts.py tests/test_qkeras_facts.py \
		-m "not long and not hls and not rtl and not files and not training"

# No C++ compiler, no yosys, no training, no processes of their own, not the rows of every layer and quantizer; under a minute.
quick: $(VENV)/.ready
	$(BIN)/python -m pytest -n $(WORKERS) \
		-m "not long and not hls and not rtl and not training and not files and not fuzz and not browser" \
		--ignore tests/test_convolutions.py --ignore tests/test_cli.py --ignore tests/test_imports.py \
		--ignore tests/test_vendor.py --ignore tests/test_contracts.py --ignore tests/test_codebooks.py \
		--ignore tests/test_optimizers.py --ignore tests/test_weight_sets.py --ignore tests/test_folding.py \
		--ignore tests/test_balance.py --ignore tests/test_input_types.py --ignore tests/test_remedies.py \
		--ignore tests/test_generations.py --ignore tests/test_core.py --ignore tests/test_folded.py

# The long randomised runs, with their histograms, and the proofs that `make test` leaves out.
fuzz: $(VENV)/.ready
	$(BIN)/python -m pytest -n $(WORKERS) -m long
	PYTHONPATH=$(LEGACY) $(BIN)/python -m pytest -n $(WORKERS) -m files tests/test_contracts.py
	$(BIN)/python -W ignore -m tests.fuzz --networks 300 --inputs 1000 --seed 0 --csim 20
	$(BIN)/python -W ignore -m tests.fuzz --family cnn --networks 100 --inputs 100 --seed 0 --csim 10

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(LEGACY) $(QKERAS)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info demo prj
