# `make run` sets up and starts a cluster; `make test` sets up and passes the tests; `make lint` checks style.
#
# Everything is built outside the clone, so that a fresh clone finds what an earlier one compiled. RocksDB is most of a
# first build; ccache keeps its object files even where the target folder is lost.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kelson
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CC = ccache gcc
export CXX = ccache g++

PEERS := $(CACHE)/peers
KUBECTL := $(or $(shell command -v kubectl 2>/dev/null),$(PEERS)/kubectl)
# The tests look for the real programs here, and say so where one is absent.
export KELSON_TEST_KUBECTL = $(wildcard $(KUBECTL))
export KELSON_TEST_ETCD = $(wildcard $(PEERS)/etcd)
export KELSON_TEST_ETCDCTL = $(wildcard $(PEERS)/etcdctl)
export KELSON_TEST_ETCDUTL = $(wildcard $(PEERS)/etcdutl)
export KELSON_TEST_PEERS = $(wildcard $(PEERS))

.PHONY: run build test lint setup peers

run: build ## a cluster of 100 nodes; ARGS="--nodes 1000" and so on are passed on
	@$(CARGO_TARGET_DIR)/debug/kelson dev $(ARGS)

build: setup
	@echo "compiling kelson (a first build takes about 25 minutes on two cores, nearly all of it RocksDB)"
	@cargo build

test: setup peers
	@echo "compiling kelson and its tests (a first build takes about 30 minutes on two cores, nearly all of it RocksDB)"
	@cargo test --workspace --no-run
	@echo "running the tests"
	@$(MAKE) --no-print-directory cargo-test
	@$(MAKE) --no-print-directory sim-test
	@$(MAKE) --no-print-directory loom

# A second make, so that the variables above see the peers that the first one built.
.PHONY: cargo-test
cargo-test:
	@cargo test --workspace --no-fail-fast

.PHONY: fuzz
fuzz: setup ## libFuzzer for a while on each target: make fuzz SECONDS=600 TARGETS="engine record"
	@bash .ci/fuzz "$(or $(SECONDS),60)" "$(CACHE)/fuzz" $(TARGETS)

.PHONY: loom
loom: ## the interleavings of the lock-free parts, in a target folder of their own
	@echo "checking the interleavings of the lock-free parts with loom (compiles for about a minute the first time)"
	@CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/loom RUSTFLAGS="--cfg loom" cargo test -q -p kelson-engine -p kelson-sched --lib loom

.PHONY: bench
bench: setup peers ## measures what a distribution would ship: make bench ARGS="store --peer ETCD --workload put"
	@echo "compiling the release build (links for minutes)"
	@cargo build -q --release
	@$(CARGO_TARGET_DIR)/release/kelson bench $(ARGS)

.PHONY: sim sim-test
sim: ## a whole cluster in simulation: make sim SEEDS=1000, or one seed with its trace: make sim SEED=17
	@echo "compiling the simulation (about two minutes the first time)"
	@cd tests/sim && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/sim cargo build -q --locked
	@$(CARGO_TARGET_DIR)/sim/debug/kelson-sim $(if $(BUG),--bug $(BUG)) $(if $(FINDS),--finds $(FINDS),\
		$(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100) --from $(or $(FROM),0)))

sim-test:
	@echo "testing the simulation of a cluster (compiles for about two minutes the first time)"
	@cd tests/sim && CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/sim cargo test -q --locked

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cd tests/sim && cargo fmt --check && \
		CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/sim cargo clippy --locked --all-targets -- -D warnings

setup:
	@bash .ci/setup

peers:
	@bash .ci/peers "$(PEERS)"
