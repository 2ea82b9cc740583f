#!/bin/sh
# Builds the release of extension and agent, and packs them.
#   package.sh PG_CONFIG [tree]
# The archive holds the files under their full paths, to be unpacked in /: extension where that PostgreSQL looks for
# it, agent, manual page and unit file below usr/local. With `tree` it leaves target/package/tree and packs nothing.
set -eu
cd "$(dirname "$0")/.."
pg_config=$1

target=${CARGO_TARGET_DIR:-$PWD/target}
PGRX_HOME=$target/pgrx-release
export PGRX_HOME
mkdir -p "$PGRX_HOME"
major=$(scripts/pg-major.sh "$pg_config")
wanted="pg$major = \"$pg_config\""
grep -qsF "$wanted" "$PGRX_HOME/config.toml" || printf '[configs]\n%s\n' "$wanted" >"$PGRX_HOME/config.toml"

tree=$target/package/tree
rm -rf "$target/package"
mkdir -p "$tree/extension"
cargo build --release -p replica_agent
cargo pgrx package -p pyreplica --pg-config "$pg_config" --out-dir "$tree/extension"
cp "$target/release/replica_agent" "$tree/replica_agent"
"$tree/replica_agent" man >"$tree/replica_agent.8"
[ "${2:-}" != tree ] || exit 0

version=$(cargo pkgid -p replica_agent | sed 's/.*[#@]//')
root=$target/package/root
mkdir -p "$root/usr/local/bin" "$root/usr/local/share/doc/pyreplica"
mkdir -p "$root/usr/local/share/man/man8" "$root/usr/local/lib/systemd/system"
cp -R "$tree/extension/." "$root"
cp "$tree/replica_agent" "$root/usr/local/bin"
cp "$tree/replica_agent.8" "$root/usr/local/share/man/man8"
sed "s|@PREFIX@|/usr/local|" packaging/pyreplica.service >"$root/usr/local/lib/systemd/system/pyreplica.service"
cp README.md LICENSE CHANGELOG.md "$root/usr/local/share/doc/pyreplica"
archive=$target/pyreplica-$version-pg$major-$(uname -m).tar.gz
tar -C "$root" --owner=0 --group=0 -czf "$archive" .
echo "$archive"
