#!/bin/sh
# Builds the release and shows the job that the argument names, demo or demo_multimaster; run by with-postgres.sh.
set -eu
demo=${1:-demo}
echo "== building extension, agent and $demo"
scripts/build-for-servers.sh
cargo build --quiet --release -p pyreplica_tests --bin "$demo"
release=${CARGO_TARGET_DIR:-$PWD/target}/release
PYREPLICA_AGENT=$release/replica_agent exec "$release/$demo"
