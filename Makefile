# The verbs of this checkout. What they do stands in scripts/; CI runs the same ones.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The PostgreSQL to install into; the default is the embedded 16.
PG_CONFIG ?=
# A folder of photos, or a manifest, for `make demo`; the default is drawn by tests/catalogue.
CATALOGUE ?=

##@ Start
.PHONY: help setup demo test
help: ## This list
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
setup: ## Install what is missing into .lookbook/ (system packages by apt)
	@scripts/setup
demo: ## Load a catalogue and query it; CATALOGUE=folder for your own
	@CATALOGUE='$(CATALOGUE)' scripts/demo
test: ## Everything that CI checks
	@scripts/test

##@ Build and install
.PHONY: build install openvino lint clean
build: setup ## The loader and the extension, for speed: target/release/{lookbook,liblookbook.so}
	@scripts/build
install: ## Build and install the extension: PG_CONFIG=/path/to/pg_config
	@scripts/setup build
	@scripts/install $(PG_CONFIG)
openvino: ## ONNX Runtime with OpenVINO, for `lookbook load --device openvino` (x86_64)
	@scripts/setup openvino
lint: ## rustfmt, clippy, cargo-deny, shellcheck
	@scripts/setup test
	@scripts/lint
clean: ## Remove what was built (not .lookbook/)
	cargo clean

##@ The private cluster (unix socket only)
.PHONY: up down psql status
up: setup ## Start it; the last line is its URL
	@scripts/cluster up
down: ## Stop it
	@scripts/cluster down
psql: ## Open psql on it; also takes SQL on standard input
	@scripts/cluster psql
status: ## Whether it runs, and its URL
	@scripts/cluster status

##@ Develop
.PHONY: regress-update soak-index crash-test soak fuzz miri memcheck prove-docker prove-postgres prove-arm bench-distance bench-decode bench-embed bench-worker bench-load bench-index train-detector train-embedder
regress-update: ## Accept the output of the SQL regression files
	@scripts/test regress-update
soak-index: ## Kill servers and mix writes, vacuums and searches: MINUTES=10 for each of 6 tests
	@LOOKBOOK_SOAK_MINUTES=$(or $(MINUTES),10) scripts/test soak-index
crash-test: ## Kill servers amid everything at once: KILLS=200
	@LOOKBOOK_KILLS=$(or $(KILLS),200) scripts/test crash-test
fuzz: ## Feed hostile bytes to all that reads them: SECONDS=60 for each of 7 targets (libFuzzer)
	@scripts/setup test && scripts/fuzz $(or $(SECONDS),60)
miri: ## Interpret kernels and page codecs with Miri (a nightly toolchain)
	@scripts/miri
memcheck: ## Suites with every process of the server under AddressSanitizer: SUITES="regress worker", TOOL=valgrind
	@scripts/setup test && scripts/memcheck $(SUITES)
soak: ## pgbench writes, deletes and searches beside vacuums, compared with the truth: MINUTES=30
	@LOOKBOOK_SOAK_MINUTES=$(or $(MINUTES),30) scripts/test soak
prove-docker: ## Run the Dockerfile's steps in a clean Debian root (root only)
	@scripts/prove-docker
prove-postgres: ## The suites on PostgreSQL 17 or 18 in a newer Debian root (root only): VERSIONS="17 18"
	@scripts/setup test && scripts/prove-postgres $(VERSIONS)
prove-arm: ## Kernels on aarch64: compiled in a newer Debian root, run by qemu-user (root only)
	@scripts/prove-arm
bench-distance: ## l2_distance in a sequential scan, against pgvector
	@scripts/bench/distance
bench-decode: ## Decoding and preparing of a 12-megapixel JPEG, against Pillow
	@scripts/setup test && $${LOOKBOOK_HOME:-.lookbook}/venv/bin/python scripts/bench/decode
bench-embed: ## First and later calls of embed_image
	@scripts/bench/embed
bench-worker: ## The inference worker: fresh connections, many of them, and beside its model alone
	@scripts/bench/worker
bench-load: ## The loader beside a Python reference and beside its models alone
	@scripts/bench/load
bench-index: ## The index beside pgvector's HNSW and IVFFlat; SMOKE=1: a minute; SETS=, PARTS=, ENGINES= choose
	@scripts/bench/index/run
train-detector: ## Train and export models/shipped/garment-detector
	@models/train garment-detector
train-embedder: ## Train and export models/shipped/garment-embedder
	@models/train garment-embedder
