# `make` lists what there is to do. Needs Python 3.11 or newer and git; everything else goes into .venv, once.
PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV := .venv
READY := $(VENV)/.ready

.PHONY: help demo test test-fast torture lint bench docs gallery release-check lowest browser clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY)  ## record Breakout with saliency into runs/demo (CHECKPOINT=path takes your agent instead of the bundled one)
	$(VENV)/bin/saliency-wrappers record ALE/Breakout-v5 $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") --seed 0 --steps 1200 --strip --zoom 3 --output runs/demo

test: $(READY) browser  ## run the tests (ARGS="-k name" goes to pytest)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

browser:  ## install Chromium for the viewer's tests, where apt-get may
	@command -v chromium chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu; } || \
	    echo "The viewer's browser tests need chromium and chromedriver: apt-get install chromium chromium-driver"

test-fast: $(READY)  ## run the tests that take no time
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

torture: $(READY)  ## let every file operation fail, read 20,000 mutated files, kill 700 programs (ARGS="--fuzz 1000"); an hour
	PYTHONPATH=tests/support:tests/store OMP_NUM_THREADS=1 $(VENV)/bin/python tests/support/torture.py $(ARGS)

lint: $(READY)  ## check style, formatting, types and which folder imports which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(READY)  ## measure speed, into runs/bench (ARGS="--agents Pong" goes to the first, against the published way)
	$(VENV)/bin/python benchmarks/bench_saliency.py $(ARGS)
	$(VENV)/bin/python benchmarks/bench_perturbers.py
	$(VENV)/bin/python benchmarks/bench_recorder.py
	$(VENV)/bin/python benchmarks/bench_stages.py
	$(VENV)/bin/python benchmarks/bench_vector.py --rounds 8
	$(VENV)/bin/python benchmarks/bench_store.py

docs: $(READY)  ## build the site into runs/site: strictly, and without any request to the network
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet
	@echo "Read it at the address that 'python3 -m http.server --bind 127.0.0.1 --directory runs/site' prints (the search needs a server)"

gallery: $(READY)  ## make the films and pictures of docs/gallery.md again (minutes)
	MPLBACKEND=Agg $(VENV)/bin/python docs/code_blocks.py docs/gallery.md docs/gallery

release-check: $(READY)  ## build sdist and wheel, check them, install the wheel by pip and uv into bare environments, run README's program there
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	$(VENV)/bin/python .ci/release_check.py

lowest: $(READY)  ## run the quick tests with the lowest versions that pyproject.toml allows (TORCH="torch==2.4.0+cpu": of PyTorch, too)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	$(VENV)/bin/python .ci/lowest_versions.py $(TORCH)

clean:  ## remove .venv, caches, builds and runs/demo
	rm -rf $(VENV) build dist runs/demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two variables hold the build environments to the pins as well: the first with pip before 25.3, the second since.
$(READY): export PIP_CONSTRAINT := constraints.txt
$(READY): export PIP_BUILD_CONSTRAINT := constraints.txt
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Expected Python 3.11 or newer, got '$(PYTHON)': $$($(PYTHON) --version 2>&1). Say make PYTHON=/path/to/python3.11."; exit 1; }
	@echo "Installing into $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
