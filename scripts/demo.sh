#!/bin/sh
# Builds the release and shows the main job; run by with-postgres.sh.
set -eu
echo "== building extension, agent and demo"
scripts/build-for-servers.sh
cargo build --quiet --release -p pyreplica_tests --bin demo
release=${CARGO_TARGET_DIR:-$PWD/target}/release
PYREPLICA_AGENT=$release/replica_agent exec "$release/demo"
