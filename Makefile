PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TL4 := .venv-tl4
# One thread a process, and a process a core: tests are many small products, which threads do not speed up.
IN_PARALLEL := -n logical --maxprocesses 8
# What needs HookedTransformer or sae-lens, neither of which goes with transformer-lens 4, and has doctests.
ONLY_ON_3 := models/hooked_transformer.py sae.py testbed/sae.py
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-tl4 lint bench clean

demo: $(VENV)/.ready
	$(BIN)/engram-interp demo

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PARALLEL)

test-tl4: $(TL4)/.ready
	OMP_NUM_THREADS=1 $(TL4)/bin/pytest $(IN_PARALLEL) $(addprefix --ignore engram_interp/,$(ONLY_ON_3))

lint: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[sae,dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/collect.py
	$(BIN)/python benchmarks/decompose.py
	$(BIN)/python benchmarks/diagnose.py

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[sae,test]"
	touch $@

$(TL4)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TL4)
	sed 's/^transformer-lens==[^;]*/transformer-lens==4.3.0/' constraints.txt > $(TL4)/constraints.txt
	$(TL4)/bin/pip install -q -c $(TL4)/constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .venv-* dist build .pytest_cache .ruff_cache .hypothesis
