#!/bin/sh
# The tests, from the inside out; run by with-postgres.sh.
set -eu

step() { printf '\n== %s\n' "$*"; }

step "pure tests of the agent"
cargo test --quiet -p replica_agent

step "the extension in a server"
# One at a time: each adds tables, which locks the extension to the end of its transaction, and then takes other locks.
export RUST_TEST_THREADS=1
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses root.
    user=${PYREPLICA_RUN_AS:-postgres}
    pgdata=$(mktemp -d)
    trap 'rm -rf "$pgdata"' EXIT
    chown "$user" "$pgdata"
    cargo pgrx test "pg$PG_MAJOR" -p pyreplica --runas "$user" --pgdata "$pgdata/data"
    rm -rf "$pgdata"
else
    cargo pgrx test "pg$PG_MAJOR" -p pyreplica
fi

unset RUST_TEST_THREADS

step "master, slaves and agent"
scripts/build-for-servers.sh --features failpoints
if [ -n "${SLAVE:-}" ]; then
    SLAVE_BINDIR=$(scripts/other-postgres.sh "$SLAVE")
    export SLAVE_BINDIR
    "$SLAVE_BINDIR/postgres" --version
fi
# Tests mostly wait for servers: more of them at once than there are processors.
PYREPLICA_AGENT=${CARGO_TARGET_DIR:-$PWD/target}/release/replica_agent \
    cargo test -p pyreplica_tests --test it -- --test-threads="${TEST_THREADS:-4}" "$@"
