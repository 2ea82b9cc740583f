#!/bin/sh
# Installs what building and testing need and this machine lacks: Debian packages and cargo-pgrx.
# Quiet when all is there. As an ordinary user it goes through sudo.
set -eu

PG=15
PGRX=0.18.1

say() { echo "install-deps: $*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -- "$@"
    else
        say "this needs root and there is no sudo: $*" >&2
        exit 1
    fi
}

have_package() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'; }

command -v cargo >/dev/null 2>&1 || {
    say "cargo was not found; install Rust first (https://rustup.rs)" >&2
    exit 1
}

packages="build-essential clang libclang-dev pkg-config libssl-dev"
# A PostgreSQL of one's own (PG_CONFIG) takes the place of Debian's.
if [ -z "${PG_CONFIG:-}" ]; then
    packages="$packages postgresql-$PG postgresql-server-dev-$PG"
fi
# cargo pgrx test runs its server as another user by sudo, also for root.
if [ "$(id -u)" = 0 ]; then
    packages="$packages sudo"
fi

missing=
for package in $packages; do
    have_package "$package" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || {
        say "missing:$missing, and this is no Debian; install the like of them, and set PG_CONFIG" >&2
        exit 1
    }
    say "installing$missing"
    # Debian makes and starts a server with the package unless told not to; nobody here needs it.
    if ! have_package "postgresql-$PG" && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
        made_conf=yes
    fi
    as_root apt-get update -qq
    # Server and headers together, so that both are of one version; --force-confold keeps our createcluster.conf.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 $missing >/dev/null
    if [ "${made_conf:-}" = yes ]; then
        # The file stays the package's own; only our line goes.
        as_root sed -i '/^create_main_cluster = false$/d' /etc/postgresql-common/createcluster.conf
    fi
fi

if [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX" ]; then
    say "installing cargo-pgrx $PGRX (some minutes)"
    cargo install cargo-pgrx --version "$PGRX" --locked --quiet
fi
