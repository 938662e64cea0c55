PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TL4 := .venv-tl4
TODAY := .venv-today
LOWEST := .venv-lowest
# One thread a process, and a process a core: tests are many small products, which threads do not speed up.
IN_PARALLEL := -n logical --maxprocesses 8
# What needs HookedTransformer or sae-lens, neither of which goes with transformer-lens 4, and has doctests.
ONLY_ON_3 := models/hooked_transformer.py sae/concepts.py testbed/sae.py
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-tl4 test-today test-lowest lint bench clean

demo: $(VENV)/.installed
	$(BIN)/engram-interp demo

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PARALLEL)

test-tl4: $(TL4)/.ready
	OMP_NUM_THREADS=1 $(TL4)/bin/pytest $(IN_PARALLEL) $(addprefix --ignore engram_interp/,$(ONLY_ON_3))

# What a user gets: the wheel, with whatever pip takes today, away from the checkout.
test-today: $(TODAY)/.ready
	rm -rf $(TODAY)/checkout && mkdir $(TODAY)/checkout
	cp -r tests analyses benchmarks pyproject.toml README.md $(TODAY)/checkout
	cd $(TODAY)/checkout && OMP_NUM_THREADS=1 ../bin/pytest $(IN_PARALLEL) -m "not slow" tests
	cd $(TODAY)/checkout && ../bin/engram-interp demo --out report.html && grep -q "The engram of" report.html

# The lowest versions that pyproject.toml allows of what it names.
test-lowest: $(LOWEST)/.ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(IN_PARALLEL) -m "not slow"

lint: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[sae,dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/collect.py
	$(BIN)/python benchmarks/decompose.py
	$(BIN)/python benchmarks/diagnose.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.ready: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e ".[sae,test]"
	touch $@

$(TL4)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TL4)
	sed 's/^transformer-lens==[^;]*/transformer-lens==4.3.0/' constraints.txt > $(TL4)/constraints.txt
	$(TL4)/bin/pip install -q -c $(TL4)/constraints.txt -e ".[test]"
	touch $@

$(TODAY)/.ready: pyproject.toml $(shell find engram_interp -name "*.py")
	rm -rf $(TODAY) && $(PYTHON) -m venv $(TODAY)
	$(TODAY)/bin/pip wheel -q --no-deps -w $(TODAY)/dist .
	$(TODAY)/bin/pip install -q "$$(echo $(TODAY)/dist/*.whl)[test]"
	touch $@

$(LOWEST)/.ready: pyproject.toml
	rm -rf $(LOWEST) && $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install -q uv
	$(LOWEST)/bin/uv pip install -q --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[sae,test]"
	touch $@

clean:
	rm -rf $(VENV) .venv-* dist build .pytest_cache .ruff_cache .hypothesis
