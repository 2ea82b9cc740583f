#!/bin/sh
# Lints the extension where PostgreSQL's server headers are; elsewhere says that it did not.
set -eu
pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
if [ -e "$("$pg_config" --includedir-server 2>/dev/null)/postgres.h" ] && [ -x "$("$pg_config" --bindir)/postgres" ]; then
    # shellcheck disable=SC2016  # the inner shell expands
    "$(dirname "$0")"/with-postgres.sh sh -c '
        exec cargo clippy -p pyreplica --all-targets --no-default-features --features "pg$PG_MAJOR pg_test" -- -D warnings'
else
    echo "no PostgreSQL server headers here: the extension was not linted (make deps installs them)"
fi
