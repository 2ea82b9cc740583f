#!/bin/sh
# Prints the major version of the PostgreSQL that a pg_config belongs to; refuses one that the extension is not for.
#   pg-major.sh PG_CONFIG
set -eu
version=$("$1" --version)
major=$(echo "$version" | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
case $major in
    15 | 16 | 17 | 18) echo "$major" ;;
    *)
        echo "the extension is for PostgreSQL 15 to 18, and $1 belongs to $version" >&2
        exit 2
        ;;
esac
