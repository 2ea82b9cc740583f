#!/bin/sh
# Builds the release and shows the main job; run by with-postgres.sh.
set -eu
echo "== building extension, agent and demo"
scripts/build-for-servers.sh
cargo build --quiet --release -p pyreplica_tests --bin demo
PYREPLICA_AGENT=$PWD/target/release/replica_agent exec target/release/demo
