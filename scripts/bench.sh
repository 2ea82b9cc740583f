#!/bin/sh
# The benchmarks; run by with-postgres.sh.
#   BENCH    run only this one: capture_overhead, capture_instructions
#   ONLY     words that choose a part of that one: sections, workloads, variants (an unknown word lists them)
#   ROUNDS   how many rounds each has (default 5)
#   RESULTS  not empty: bring benches/RESULTS.md up to date
set -eu
if [ -n "${ONLY:-}" ] && [ -z "${BENCH:-}" ]; then
    echo "ONLY chooses a part of one benchmark: say BENCH=capture_overhead, for example" >&2
    exit 2
fi
scripts/build-for-servers.sh
# Backtraces would become part of PostgreSQL's messages.
unset RUST_BACKTRACE
# shellcheck disable=SC2086  # one argument per word
exec cargo bench --quiet -p pyreplica_benches ${BENCH:+--bench "$BENCH"} -- ${ONLY:-} ${RESULTS:+--results}
