#!/bin/sh
# Fails when capture has come to need more than a tenth more instructions per row than benches/capture_instructions.json
# says; counted by callgrind, which no load of the machine disturbs. Where PostgreSQL's server headers are; elsewhere
# says that it did not; and where that is not the version with which the file was made.
set -eu
pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
if [ -x "$pg_config" ] && [ "$("$(dirname "$0")"/pg-major.sh "$pg_config")" != 15 ]; then
    echo "not PostgreSQL 15, with which instructions were counted before: they were not counted"
elif [ -e "$("$pg_config" --includedir-server 2>/dev/null)/postgres.h" ] && [ -x "$("$pg_config" --bindir)/postgres" ]; then
    "$(dirname "$0")"/install-deps.sh all
    unset RUST_BACKTRACE
    # shellcheck disable=SC2016  # the inner shell expands
    "$(dirname "$0")"/with-postgres.sh sh -ec '
        cargo pgrx install --release -p pyreplica --pg-config "$PG_CONFIG" >/dev/null
        exec cargo bench --quiet -p pyreplica_benches --bench capture_instructions -- guard'
else
    echo "no PostgreSQL server headers here: instructions were not counted (make deps installs them)"
fi
