#!/bin/sh
# The benchmarks; run by with-postgres.sh. ROUNDS sets how many rounds each has.
set -eu
scripts/build-for-servers.sh
cargo bench --quiet -p pyreplica_benches "$@"
