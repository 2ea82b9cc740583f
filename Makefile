# The few commands everybody uses; CI calls the same ones.
#
# PG_CONFIG   of the PostgreSQL to build for, 15 to 18 (default: Debian's 15)
# PREFIX      where `make install` puts the agent (default: /usr/local)
# TEST        run only the server tests whose names contain this
# SLAVE       with slaves of another major version: 16, 17 or 18; with TEST
# BENCH       run only this benchmark, one of benches/Cargo.toml (CONTRIBUTING.md): capture_overhead, drain, latency ...
# ONLY        only the parts of it that these words name (an unknown word lists them)
# ROUNDS      of each benchmark (default 5)
# RESULTS     not empty: write the results to benches/RESULTS.md

SHELL = /bin/sh
PREFIX ?= /usr/local
PG_CONFIG ?=
TEST ?=
SLAVE ?=
BENCH ?=
ONLY ?=
RESULTS ?=
export PG_CONFIG SLAVE BENCH ONLY RESULTS

DEBIAN_PG_CONFIG = /usr/lib/postgresql/15/bin/pg_config
TARGET_PG_CONFIG = $(or $(PG_CONFIG),$(DEBIAN_PG_CONFIG))

.PHONY: help demo demo-multimaster test check bench bench-peers deps install package

help:
	@echo 'make demo      from nothing to a verified replication of a running workload, on private servers'
	@echo 'make demo-multimaster   two nodes that are written to at the same time, and end equal'
	@echo 'make test      all tests, on private servers'
	@echo 'make check     format, lints, instruction counts and the tests that need no server'
	@echo 'make bench     what writers pay, and how fast slaves follow (BENCH=capture_overhead ONLY="update slony" ROUNDS=5)'
	@echo 'make bench-peers  installs what the benchmarks compare us with: Slony-I, pglogical, PgQ, Bucardo, plpython3'
	@echo 'make install   the extension into the PostgreSQL of PG_CONFIG, the agent with manual page and unit file into PREFIX'
	@echo 'make package   both as an archive under target/'
	@echo 'make deps      what demo and test install: Debian packages, cargo-pgrx'

demo: deps
	@scripts/with-postgres.sh scripts/demo.sh demo

demo-multimaster: deps
	@scripts/with-postgres.sh scripts/demo.sh demo_multimaster

test: deps
	@scripts/with-postgres.sh scripts/test.sh $(TEST)

bench: deps
	@scripts/with-postgres.sh scripts/bench.sh

bench-peers:
	@scripts/install-deps.sh peers

check:
	@scripts/install-deps.sh agent
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy -p pyreplica_tests --test it -- -D warnings
	@scripts/lint-extension.sh
	@scripts/check-instructions.sh
	cargo test --quiet

deps:
	@scripts/install-deps.sh all

install: deps
	@scripts/install.sh "$(TARGET_PG_CONFIG)" "$(PREFIX)"

package: deps
	@scripts/package.sh "$(TARGET_PG_CONFIG)"
