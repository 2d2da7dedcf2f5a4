# `make` lists what there is to do. Every target does the set-up that it needs, once.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
RUNS := $(VENV)/runs
INSTALLED := $(VENV)/installed
PACKAGER := $(VENV)/packager
BUILT := $(VENV)/built
RUST_BENCHES := benches/rust/Cargo.toml
DEBUG := target/assertions/package
SANITIZED := target/sanitized
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
ADVISORIES := $(wildcard $(or $(CARGO_HOME),$(HOME)/.cargo)/advisory-dbs)

# Tests of the crate link libpython, which need not be where the system looks for libraries.
CARGO = PYO3_PYTHON=$(CURDIR)/$(RUN) \
	LD_LIBRARY_PATH="$$($(RUN) -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))'):$$LD_LIBRARY_PATH" cargo

# Two processes: many tests wait for guests and children. What all share on a host, such as huge pages, they lock.
PYTEST = $(RUN) -m pytest --numprocesses=2 --dist=worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup develop demo test test-debug test-long proofs sanitize check format stubs docs bench clean third-party doctor-demo doctor-test
.PHONY: prove coverage fuzz mutants thread-sanitizer
.PHONY: wheels test-wheels test-pythons test-bare check-targets check-oldest-rust check-dependencies

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install with apt what all tests want
	bash tools/setup.sh

develop: $(INSTALLED) $(BUILT) ## make .venv and build the extension into it

demo: $(BUILT) ## run a virtual machine on an address space that Python built
	$(RUN) examples/run_guest.py

# Tests before lints: who tries the package wants to know first whether it works here.
test: doctor-test $(INSTALLED) $(BUILT) ## run the tests of the crate and of the package, then check
	$(CARGO) test --locked
	$(MAKE) proofs
	$(PYTEST)
	$(MAKE) check

test-debug: $(DEBUG)/built ## run the tests of the package on a build with debug assertions
	PYTHONPATH=$(CURDIR)/$(DEBUG) $(PYTEST)

test-long: $(INSTALLED) $(BUILT) ## run all of the kill matrix and many seeds of the fuzzer, of which make test has a sample
	KILL_MATRIX=all FUZZ_SEEDS=100 RESETS=100000 CHANGES=100000 $(RUN) -m pytest tests/kill_matrix tests/fuzz tests/memory/test_checkpoints.py tests/clients/test_resets.py \
		tests/clients/test_share.py
	$(RUN) tools/fuzz.py $(or $(SECONDS),60) image

# Leaks are not looked for: an interpreter that ends leaves its own. A refused size is null, as without the sanitizer.
sanitize: $(INSTALLED) ## run the tests of the crate under AddressSanitizer, which needs a nightly Rust
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=$(SANITIZED) \
		$(CARGO) +nightly test --locked --lib --target $(HOST)

# Built apart: in this build locks and threads are those that `shuttle` plays.
proofs: $(RUNS) ## try the interleavings of locks, leases, turn, gate and change, with shuttle
	CARGO_TARGET_DIR=target/proofs RUSTFLAGS=-Dwarnings $(CARGO) test --locked --lib --features shuttle proofs::

prove: ## run every proof, from minutes to hours; docs/proofs.md says what each shows, and has found
	$(MAKE) proofs test-debug fuzz sanitize thread-sanitizer coverage mutants test-long

coverage: $(INSTALLED) $(BUILT) ## measure which lines the tests enter, of Rust too; fewer than before is an error
	$(RUN) tools/coverage_of_rust.py

fuzz: $(INSTALLED) $(BUILT) ## run libFuzzer on the map and on all that reads what others wrote, SECONDS=60 a target
	$(RUN) tools/fuzz.py $(or $(SECONDS),60)

mutants: $(INSTALLED) ## break FILES=src/model/pattern.rs in one place after the other; what no test notices is an error
	$(RUN) tools/mutants.py $(or $(FILES),src/model/range.rs src/model/pattern.rs src/model/address_index.rs) $(MUTANTS)

thread-sanitizer: $(INSTALLED) ## run the crate's tests of threads under ThreadSanitizer, with Debian's Rust
	$(RUN) tools/thread_sanitizer.py

check: doctor-test docs $(INSTALLED) $(BUILT) ## formats, lints, types, documentation, licences, and the stub against the extension
	cargo fmt --check
	cargo fmt --check --manifest-path $(RUST_BENCHES)
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTFLAGS=-Dwarnings $(CARGO) check --locked --manifest-path $(RUST_BENCHES)
	$(RUN) -m ruff format --check
	$(RUN) -m ruff check
	$(RUN) -m mypy
	$(RUN) tools/check_stub.py
	$(RUN) tools/complete_types.py
	$(RUN) tools/third_party.py --check

format: $(INSTALLED) ## format all code
	cargo fmt
	cargo fmt --manifest-path $(RUST_BENCHES)
	$(RUN) -m ruff format

stubs: $(INSTALLED) $(BUILT) ## merge the extension's docstrings into its stub
	$(RUN) tools/stubs.py
	$(RUN) -m ruff format --quiet python/dbs_address_space/_core.pyi

docs: $(INSTALLED) $(BUILT) ## build the pages of docs/ and the reference as a site, in target/site, and the crate's documentation
	$(RUN) -m sphinx --quiet --fail-on-warning --jobs auto docs target/site
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' $(CARGO) doc --locked --quiet --no-deps --document-private-items

bench: $(INSTALLED) ## measure against the standard library, and against the original crate
	rm -f $(BUILT)
	$(call build,--release)
	$(RUN) benches/bench.py
	$(CARGO) run --locked --release --manifest-path $(RUST_BENCHES)

wheels: $(PACKAGER) ## build and prove the wheels of every platform and the sdist, in dist/
	$(RUN) tools/wheels.py $(TARGETS)

check-targets: $(PACKAGER) ## compile, without linking, for every platform and for free-threaded Pythons
	$(RUN) tools/check_targets.py

check-oldest-rust: ## compile with the oldest Rust that Cargo.toml promises; rustup brings it
	rustup toolchain list | grep -q '^1\.88' || rustup toolchain install 1.88 --profile minimal
	PYO3_NO_PYTHON=1 PYO3_BUILD_EXTENSION_MODULE=1 cargo +1.88 check --locked --lib

check-dependencies: ## advisories, licences and sources of the crates, by cargo-deny; OFFLINE=1 takes the advisories it has
	cargo deny $(if $(OFFLINE),--offline) check bans licenses sources $(if $(OFFLINE),$(ADVISORIES:%=advisories),advisories)

test-wheels: $(PACKAGER) ## run what is in dist/: here, on an emulated aarch64, on musl, and the sdist without git
	$(RUN) tools/try_wheels.py

test-pythons: $(PACKAGER) $(BUILT) ## run the tests on every CPython from 3.11 on
	$(RUN) tools/try_pythons.py

test-bare: ## run `make demo` and `make test` in a Debian 12 that has nothing; needs root
	$(PYTHON) tools/try_bare.py

third-party: $(RUNS) ## write down the licences of what is built in
	$(RUN) tools/third_party.py

clean: ## delete everything that was built
	rm -rf $(VENV) target benches/rust/target dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python tests examples benches tools -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/dbs_address_space/*.so

doctor-demo doctor-test:
	@PYTHON=$(PYTHON) sh tools/doctor.sh $(@:doctor-%=%)

$(RUNS): pyproject.toml | doctor-demo
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade 'pip>=25.1'
	$(RUN) -m pip install --quiet --group demo
	touch $@

$(INSTALLED): $(RUNS)
	$(RUN) -m pip install --quiet --group dev
	touch $@

$(PACKAGER): $(INSTALLED)
	$(RUN) -m pip install --quiet --group wheels
	touch $@

# A library that is left behind under another name would be imported instead of the new one.
define build
	rm -f python/dbs_address_space/*.so
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(RUN) -m maturin develop --quiet --locked --group demo $(1)
endef

$(BUILT): $(RUNS) Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	$(call build,--profile develop)
	touch $@

# Beside the installed build, which stays as it is.
$(DEBUG)/built: $(INSTALLED) Cargo.toml Cargo.lock $(shell find src -name '*.rs') $(wildcard python/dbs_address_space/*.py*)
	rm -rf $(DEBUG)
	$(RUN) -m maturin build --quiet --locked --profile assertions --out $(DEBUG)
	$(RUN) -m pip install --quiet --no-deps --no-index --target $(DEBUG) $(DEBUG)/*.whl
	rm $(DEBUG)/*.whl
	touch $@
