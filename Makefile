# Every target sets up what it needs; `make demo` and `make test` work on a machine with nothing but make, git and Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow lint wheel bench chaos clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/illume run quickstart

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

test-slow: $(VENV)/.tested # what takes minutes each: whole recipes and chains through Ray Train
	$(BIN)/python -m pytest -m slow

wheel: $(VENV)/.installed # builds the package and plans from it alone (-S: without the editable install), so that a missing file is seen
	rm -rf build
	$(PIP) wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PIP) install --quiet --no-deps --target build/site build/wheel/*.whl
	cd build && PYTHONPATH="site:$$($(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		$(abspath $(BIN))/python -S -c 'from orchestrator.cli import main; main()' plan quickstart

bench: $(VENV)/.tested
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

chaos: $(VENV)/.tested # SEED=7 arms the same points and kills again, MINUTES=60 goes on for an hour
	$(BIN)/python -m pytest -m slow tests/chaos tests/end_to_end
	$(BIN)/python -m tests.chaos.storm $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),5)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
