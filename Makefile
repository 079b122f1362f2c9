# Every target does its own set-up. Start with `make demo`.

SHELL := /bin/bash
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
export SAMPAN_BIN := $(CURDIR)/target/$(HOST)/release/sampan
CARGO_FLAGS := --release --locked
FUZZ_SECONDS ?= 120

.PHONY: demo build samples guests test test-long fuzz bench hot lint doc setup clean

## Build everything, then show a sandboxed web service from its Dockerfile to its answer
demo: build
	@samples/build.sh hello web
	@samples/demo.sh

build: setup
	cargo build $(CARGO_FLAGS) -p sampan

## Build the guest programs (needs no toolchain for what the cache has)
guests: setup
	@samples/build.sh

## Build every sample's image into the store that SAMPAN_ROOT names
samples: build guests
	@for name in $$(samples/build.sh --list); do \
	  echo "== $$name"; "$(SAMPAN_BIN)" build -t "$$name" "samples/$$name" || exit 1; done
	@"$(SAMPAN_BIN)" build -q -t python:3.14 samples/python

## Everything that gates a change
test: lint guests build
	PATH="$$(tests/tools.sh):$$PATH" cargo test $(CARGO_FLAGS) --workspace
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps --workspace

## What takes too long for every change: rounds of kill -9, many containers, long runs
test-long: guests build fuzz
	PATH="$$(tests/tools.sh cluster):$$PATH" cargo test $(CARGO_FLAGS) -p sampan-tests -- --ignored

## Feed the parsers of what others write with whatever comes, for FUZZ_SECONDS each
fuzz:
	@if cargo fuzz --version >/dev/null 2>&1 && rustc +nightly --version >/dev/null 2>&1; then \
	  for target in $$(cargo +nightly fuzz list); do \
	    echo "== $$target"; cargo +nightly fuzz run --target $(HOST) $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done; \
	else echo "SKIPPED fuzzing: it needs cargo-fuzz and a nightly toolchain (cargo install cargo-fuzz; rustup toolchain install nightly)"; fi

## The speed tables, with whichever peers this machine has beside ours
bench: guests build
	@if command -v npm >/dev/null; then samples/build.sh hello-js; fi
	cargo run $(CARGO_FLAGS) --bin bench

## Find out anew which functions a start runs, so that the linker puts them side by side (some minutes)
hot: guests build
	cargo run $(CARGO_FLAGS) --bin hot

lint: setup
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

doc:
	cargo doc $(CARGO_FLAGS) --no-deps --workspace --open

## What building needs beside Rust: a C compiler with a static C library, and curl for the demo
setup:
	@samples/setup.sh

clean:
	cargo clean
