# Everything below works on a fresh Debian or Ubuntu with python3 (>= 3.11) and its venv module, git and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test torch-env crate-env slurm-setup slurm-24 lint types imports docs-check wheel bench clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## a virtual environment in .venv with yprov (editable) and all tools
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11"; echo "hint: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) cannot make a virtual environment"; echo "hint: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group test --group lint --group build
	@$(BIN)/python -m compileall -q yprovd launcher
	@touch $@

demo: setup ## train a small network on real digits under `yprov run`, and show what is left behind
	@mkdir -p .demo
	$(BIN)/yprov run --experiment digits -- $(BIN)/python examples/digits.py --model .demo/model.pkl

test: setup ## the tests, two at a time (PYTEST_ARGS="-n0 tests/test_wire.py")
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

torch-env: .venv-torch/.ready ## PyTorch (CPU, 1.3 GB) and the client in .venv-torch, for the test of a real DDP training
.venv-torch/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --editable . torch==2.13.0 scikit-learn
	@touch $@

crate-env: .venv-crate/.ready ## the validator of RO-Crates in .venv-crate (it cannot share one with our tools), for the tests of the crate
.venv-crate/.ready: Makefile
	$(PYTHON) -m venv .venv-crate
	.venv-crate/bin/python -m pip install --quiet rocrate==0.16.0 roc-validator==0.13.0
	@touch $@

slurm-setup: ## as root: install Slurm for the tests (no service is started); otherwise says why not
	@tests/slurm/setup.sh && $(PYTHON) -m tests.slurm.cluster check

slurm-24: export YPROV_SLURM_ROOTFS ?= /var/cache/yprov/slurm-24
slurm-24: setup ## as root: the Slurm tests with Slurm 24.11, in a Debian 13 made below YPROV_SLURM_ROOTFS
	tests/slurm/rootfs.sh $(YPROV_SLURM_ROOTFS)
	YPROV_REQUIRE_SLURM=1 $(BIN)/python -m pytest $(or $(PYTEST_ARGS),tests/slurm)

lint: setup ## ruff
	$(BIN)/ruff check .

types: setup ## mypy --strict
	$(BIN)/mypy yprovd launcher/yprov

imports: setup ## the direction of imports, by import-linter
	$(BIN)/lint-imports

docs-check: setup ## the documents say what the program does
	$(BIN)/python -m pytest -q tests/test_docs.py

wheel: setup ## build the wheel and try it in a clean environment
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet dist/*.whl
	cd build && wheel-venv/bin/yprov run --dir wheel-runs -- true && wheel-venv/bin/yprov validate last --dir wheel-runs
	rm -rf build/wheel-venv build/wheel-runs

bench: setup ## every performance figure in one table, peers beside ours (some minutes)
	$(BIN)/python benchmarks/run.py

clean: ## take away what the other targets made
	rm -rf $(VENV) .venv-torch .venv-crate .bench .demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
