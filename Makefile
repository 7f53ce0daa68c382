# `make report` and `make test` do everything from a bare clone; a second run only does the last step.
PYTHON ?= python3
BIN := .venv/bin
# The package as mypy wants to see it; see pyproject.toml.
TYPES := build/types/segmeter
INSTALLED := .venv/.installed

.PHONY: report test suite lint types check bench clean

report: $(INSTALLED)
	$(BIN)/segmeter report

# Types are checked beside the tests: that takes one process most of a minute.
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs=2 --no-print-directory suite types

suite: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	rm -rf $(TYPES) && mkdir -p $(TYPES)
	ln -s $(foreach room,commands cuda_ops encoders harness reports results,$(CURDIR)/$(room)) $(TYPES)
	ln -s $(CURDIR)/segmeter/*.py $(TYPES)
	$(BIN)/python -m mypy

# segmeter's own gate: its encoders against results/budgets.toml.
check: $(INSTALLED)
	$(BIN)/segmeter check results/budgets.toml

bench: $(INSTALLED)
	$(BIN)/python benchmarks/counting_speed.py

# Written last, so that an interrupted installation is done again.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(INSTALLED)

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
