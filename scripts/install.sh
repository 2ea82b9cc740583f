#!/bin/sh
# Installs the extension into a PostgreSQL and the agent beside the other programs.
#   install.sh PG_CONFIG PREFIX
# Builds as the user who calls; goes through sudo only to write where that user may not.
set -eu
cd "$(dirname "$0")/.."
pg_config=$1
prefix=$2

scripts/package.sh "$pg_config" tree
tree=${CARGO_TARGET_DIR:-target}/package/tree

# $1 a directory: whether we may write there, or make it.
writable() {
    path=$1
    until [ -e "$path" ]; do path=$(dirname "$path"); done
    [ -w "$path" ]
}
sudo=
for directory in "$prefix/bin" "$prefix/share/man/man8" "$prefix/lib/systemd/system" "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)/extension"; do
    writable "$directory" || sudo=sudo
done
# A library that running servers have mapped must not be written to: a new file takes its place.
$sudo cp -R --remove-destination --no-preserve=ownership "$tree/extension/." /
$sudo install -D -m 755 "$tree/replica_agent" "$prefix/bin/replica_agent"
$sudo install -D -m 644 "$tree/replica_agent.8" "$prefix/share/man/man8/replica_agent.8"
sed "s|@PREFIX@|$prefix|" packaging/pyreplica.service >"$tree/pyreplica.service"
$sudo install -D -m 644 "$tree/pyreplica.service" "$prefix/lib/systemd/system/pyreplica.service"
echo "installed: extension pyreplica in $("$pg_config" --sharedir)/extension, agent in $prefix/bin/replica_agent, unit in $prefix/lib/systemd/system/pyreplica.service"
