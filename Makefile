# `make` lists what there is to do. Every target does the set-up that it needs, once.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
BUILT := $(VENV)/built
RUST_BENCHES := benches/rust/Cargo.toml
DEBUG := target/assertions/package

# Tests of the crate link libpython, which need not be where the system looks for libraries.
CARGO = PYO3_PYTHON=$(CURDIR)/$(RUN) \
	LD_LIBRARY_PATH="$$($(RUN) -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))'):$$LD_LIBRARY_PATH" cargo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help develop demo test test-debug check format stubs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

develop: $(BUILT) ## make .venv and build the extension into it

demo: $(BUILT) ## run a virtual machine on an address space that Python built
	$(RUN) examples/run_guest.py

test: check ## check, then run the tests of the crate and of the package
	$(CARGO) test --locked
	$(RUN) -m pytest

test-debug: $(DEBUG)/built ## run the tests of the package on a build with debug assertions
	PYTHONPATH=$(CURDIR)/$(DEBUG) $(RUN) -m pytest

check: $(BUILT) ## formats, lints, types, the crate's documentation, and the stub against the extension
	cargo fmt --check
	cargo fmt --check --manifest-path $(RUST_BENCHES)
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --quiet --no-deps --document-private-items
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m mypy
	$(RUN) -m mypy.stubtest dbs_address_space._core

format: $(INSTALLED) ## format all code
	cargo fmt
	cargo fmt --manifest-path $(RUST_BENCHES)
	$(RUN) -m ruff format

stubs: $(BUILT) ## merge the extension's docstrings into its stub
	$(RUN) tools/stubs.py
	$(RUN) -m ruff format --quiet python/dbs_address_space/_core.pyi

bench: $(BUILT) ## measure against the standard library, and against the original crate
	$(RUN) benches/bench.py
	$(CARGO) run --locked --release --manifest-path $(RUST_BENCHES)

clean: ## delete everything that was built
	rm -rf $(VENV) target benches/rust/target dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python tests examples benches -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/dbs_address_space/*.so

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade 'pip>=25.1'
	$(RUN) -m pip install --quiet --group dev
	touch $@

# A library that is left behind under another name would be imported instead of the new one.
$(BUILT): $(INSTALLED) Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	rm -f python/dbs_address_space/*.so
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(RUN) -m maturin develop --quiet --release --locked
	touch $@

# Beside the installed build, which stays as it is.
$(DEBUG)/built: $(INSTALLED) Cargo.toml Cargo.lock $(shell find src -name '*.rs') $(wildcard python/dbs_address_space/*.py*)
	rm -rf $(DEBUG)
	$(RUN) -m maturin build --quiet --locked --profile assertions --out $(DEBUG)
	$(RUN) -m pip install --quiet --no-deps --no-index --target $(DEBUG) $(DEBUG)/*.whl
	rm $(DEBUG)/*.whl
	touch $@
