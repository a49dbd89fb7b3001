# Thin names for the commands of the README. Nothing but Rust, a C compiler, Node 20 and make must be
# there; everything else comes from the package registries into this clone.

.PHONY: demo test lint fmt

FORGE := node_modules/.bin/forge
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
	$(FORGE) build contracts/src
	$(FORGE) lint
	cargo clippy --locked $(FEATURES) --all-targets -- --deny warnings

fmt: $(TOOLS)
	cargo fmt --all
	$(FORGE) fmt

# The packages need none of their install scripts, so none runs.
$(TOOLS): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	touch $@
