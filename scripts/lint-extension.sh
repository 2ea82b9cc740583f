#!/bin/sh
# Lints the extension where PostgreSQL's server headers are; elsewhere says that it did not.
set -eu
pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
if [ -e "$("$pg_config" --includedir-server 2>/dev/null)/postgres.h" ] && [ -x "$("$pg_config" --bindir)/postgres" ]; then
    "$(dirname "$0")"/with-postgres.sh cargo clippy -p pyreplica --all-targets --features pg_test -- -D warnings
else
    echo "no PostgreSQL server headers here: the extension was not linted (make deps installs them)"
fi
