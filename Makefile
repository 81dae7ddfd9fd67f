# Every target sets up what it needs; `make demo` and `make test` work on a machine with nothing but make, git and Python 3.11 to 3.13.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# cpu or default: which build of torch is installed. The CPU build comes from the configured package index, or from this one.
TORCH_BUILD ?= $(shell $(PYTHON) .ci/machine.py torch)
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
NO_TORCH := no CPU build of $(TORCH): neither at the package index nor at TORCH_CPU_INDEX=$(TORCH_CPU_INDEX). Name an index that has it, or take the default build, several GB larger: make TORCH_BUILD=default
NO_FILE := pip found no file for this Python and platform, or could not reach the package index (its words are above). Mend that and run make again; PIP_INDEX_URL names another index, PYTHON another Python

.PHONY: demo figures test test-slow lint lock wheel bench chaos mutate fuzz clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml constraints.txt hashes.txt
	@$(PYTHON) .ci/machine.py check $(VENV)
	@echo "making the environment in $(VENV): 2 minutes, 2 GB"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet pip==26.3 || { echo "$(NO_FILE)"; exit 2; }
	@[ "$(TORCH_BUILD)" = default ] || $(PIP) install --quiet -c constraints.txt '$(TORCH)+cpu' 2>/dev/null \
		|| $(PIP) install --quiet --retries 1 -c constraints.txt --extra-index-url $(TORCH_CPU_INDEX) '$(TORCH)+cpu' \
		|| { echo "$(NO_TORCH)"; exit 2; }
	@$(PIP) install --quiet --no-deps --only-binary :all: --require-hashes -r hashes.txt || { echo "$(NO_FILE)"; exit 2; }
	@PYTHONWARNINGS=ignore $(PIP) install --quiet -c constraints.txt -e . || { echo "$(NO_FILE)"; exit 2; }
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@PYTHONWARNINGS=ignore DS_BUILD_OPS=0 $(PIP) install --quiet -c constraints.txt -e '.[deepspeed,kubernetes,notify,postgresql,ui]' --group test || { echo "$(NO_FILE)"; exit 2; }
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/illume run quickstart
	@echo "The tracker's pages: $(BIN)/pip install -c constraints.txt -e '.[ui]', then $(BIN)/mlflow ui --backend-store-uri sqlite:///.illume/mlflow.db"

figures: $(VENV)/.tested # SEEDS="1 2 3": the demo for each seed, its models on fresh scenes; 10 minutes a seed
	$(BIN)/python tests/benchmarks/figures.py $(if $(SEEDS),--seeds $(SEEDS))

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pip-licenses --summary >$(VENV)/licences.txt

test: lint # two files of tests at a time, as many wait for processes that start
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.tested # what takes minutes each: whole recipes and chains through Ray Train
	$(BIN)/python -m pytest -m slow

wheel: $(VENV)/.installed # builds the package and uses it alone (-S: without the editable install), so that a missing file is seen
	rm -rf build
	$(PIP) wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PIP) install --quiet --no-deps --target build/site build/wheel/*.whl
	cd build && export PYTHONPATH="site:$$($(abspath $(BIN))/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		&& for words in 'plan quickstart' 'kinds curate.min_side' 'new project'; do \
		$(abspath $(BIN))/python -S -c 'from orchestrator.cli import main; main()' $$words || exit 1; done

lock: # resolves again for all Pythons on the PATH; PINS holds packages back
	$(PYTHON) .ci/lock.py $(or $(PINS),$(TORCH))

bench: $(VENV)/.tested
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

chaos: $(VENV)/.tested # SEED=7 arms the same points and kills again, MINUTES=60 goes on for an hour
	$(BIN)/python -m pytest -m slow tests/chaos tests/end_to_end
	$(BIN)/python -m tests.chaos.storm $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),5)

mutate: $(VENV)/.tested # MODULES="a/b.py a/c", SEED=7, MINUTES=20: do tests notice small changes to the code?
	$(BIN)/python -m tests.mutation.mutate $(MODULES) --seed $(or $(SEED),0) --minutes $(or $(MINUTES),10)

fuzz: $(VENV)/.tested # SEED=7, MINUTES=10: odd records and damaged files for every reader of ingest
	$(BIN)/python -m tests.data_pipelines.ingest.fuzz --seed $(or $(SEED),0) --minutes $(or $(MINUTES),10)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
