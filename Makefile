# The commands that matter: `make run`, `make serve` and `make test`. They set up .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN_STAMP := $(VENV)/.run
DEV_STAMP := $(VENV)/.dev
WORKERS ?= 2
PROMPTS ?= cluster/examples/prompts.txt
export FUZZ_SECONDS ?= 600
FUZZERS := fuzz-properties fuzz-cpu_engine fuzz-exllamav2_stand_in fuzz-scheduler fuzz-grammars fuzz-keys_files

.PHONY: run serve test test-logic test-clusters fuzz $(FUZZERS) soak chaos lint bench clean

run: $(RUN_STAMP)  ## a pool of two workers writes a file of completions, then leaves nothing running
	$(BIN)/exlpool run $(PROMPTS) --workers $(WORKERS) --temperature 0.7

serve: $(RUN_STAMP)  ## an OpenAI-compatible server at http://127.0.0.1:8000/v1, until Ctrl-C
	$(BIN)/exlpool serve --workers $(WORKERS)

test: $(DEV_STAMP)  ## everything: lint, types, import rules, all tests with coverage
	rm -f .coverage .coverage.*
	$(MAKE) --no-print-directory --jobs=2 --keep-going test-logic test-clusters
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage report --include='actors/scheduling/*.py' --omit='actors/scheduling/simulator/*' --skip-covered --fail-under=100

# Side by side, since tests with clusters mostly wait, and those without keep one core busy. The latter are nice enough
# to keep nobody waiting (Ray's workers run at 15), and their output is shown in one piece when they are through.
test-logic: lint
	@echo "Tests without clusters run beside those with clusters, and are shown when they are through"
	@COVERAGE_FILE=.coverage.logic nice -n 19 $(BIN)/python -m pytest -m "not ray" --cov --cov-report= >.test-logic.log 2>&1 \
	  && status=0 || status=$$?; cat .test-logic.log; exit $$status

test-clusters: $(DEV_STAMP)
	COVERAGE_FILE=.coverage.clusters $(BIN)/python -m pytest -m ray --cov --cov-report=

fuzz: $(FUZZERS)  ## everything that searches at random, each for FUZZ_SECONDS=600; one alone is `make fuzz-grammars`

fuzz-properties: $(DEV_STAMP)
	$(BIN)/python -m tests.fuzz

$(filter-out fuzz-properties,$(FUZZERS)): fuzz-%: $(DEV_STAMP)
	$(BIN)/python -m tests.fuzzing.search $* --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

soak: $(DEV_STAMP)  ## a pool under load while it is broken, for SOAK_MINUTES=30; see tests/soak
	$(BIN)/python -m tests.soak

chaos: $(DEV_STAMP)  ## a served pool whose processes are killed, for CHAOS_MINUTES=5; see tests/chaos
	$(BIN)/python -m tests.chaos

lint: $(DEV_STAMP)  ## ruff, mypy strict, the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV_STAMP)  ## the benchmarks; see tests/benchmarks/README.md
	$(BIN)/python -m tests.benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing exlpool into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing exlpool and its development tools into $(VENV) (a few minutes the first time)"
	$(PIP) -e '.[dev]'
	@touch $@ $(RUN_STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .test-logic.log .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
