#!/bin/sh
# Runs a command with a private copy of PostgreSQL, so that no test build ever reaches an installed server.
#   with-postgres.sh COMMAND...
# PG_CONFIG, PGRX_HOME and PATH name the copy for the command, PG_MAJOR its major version. PostgreSQL finds its files relative to its programs,
# so a copy works anywhere. It is removed afterwards.
set -eu
cd "$(dirname "$0")/.."

# One run at a time for a target directory, which names the copy.
target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
exec 9>"$target/postgres.lock"
flock 9

pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
PG_MAJOR=$(scripts/pg-major.sh "$pg_config")
bin=$("$pg_config" --bindir)
lib=$("$pg_config" --pkglibdir)
share=$("$pg_config" --sharedir)
include=$("$pg_config" --includedir-server)

# The directory above all of them.
prefix=$bin
for path in "$lib" "$share" "$include"; do
    while [ "${path#"$prefix"/}" = "$path" ]; do
        prefix=${prefix%/*}
    done
done

# Always the same place, or pgrx builds its bindings anew. Servers of root run as another user, which may not get
# into the working tree.
if [ "$(id -u)" = 0 ]; then
    copy=/var/cache/pyreplica-test-$(echo "$target" | cksum | cut -d ' ' -f 1)
else
    copy=$target/postgres
fi
trap 'rm -rf "$copy"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$copy"
for path in "$bin" "$lib" "$share"; do
    part=$copy/${path#"$prefix"/}
    mkdir -p "$part"
    cp -a "$path/." "$part"
done
part=$copy/${include#"$prefix"/}
mkdir -p "${part%/*}"
ln -s "$include" "$part"
# An extension of the installed server has no place in the copy.
rm -f "$copy/${share#"$prefix"/}"/extension/pyreplica* "$copy/${lib#"$prefix"/}"/pyreplica.so

bin=$copy/${bin#"$prefix"/}
PG_CONFIG=$bin/pg_config
PATH=$bin:$PATH
PGRX_HOME=$target/pgrx
export PG_CONFIG PG_MAJOR PATH PGRX_HOME
wanted="pg$PG_MAJOR = \"$PG_CONFIG\""
if ! grep -qsF "$wanted" "$PGRX_HOME/config.toml"; then
    mkdir -p "$PGRX_HOME"
    printf '[configs]\n%s\n' "$wanted" >"$PGRX_HOME/config.toml"
fi
"$@" 9>&-
