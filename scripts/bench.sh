#!/bin/sh
# The benchmarks; run by with-postgres.sh.
#   BENCH    run only this one
#   ONLY     words that choose a part of it: sections, workloads, variants (an unknown word lists them)
#   ROUNDS   how many rounds each has (default 5)
#   RESULTS  not empty: bring benches/RESULTS.md up to date
set -eu
scripts/build-for-servers.sh
# Backtraces would become part of PostgreSQL's messages.
unset RUST_BACKTRACE
# shellcheck disable=SC2086  # one argument per word
cargo bench --quiet -p pyreplica_benches ${BENCH:+--bench "$BENCH"} -- ${ONLY:-} ${RESULTS:+--results}
