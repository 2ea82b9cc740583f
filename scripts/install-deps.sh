#!/bin/sh
# Installs what this machine lacks of Debian packages and cargo-pgrx; quiet when all is there.
#   install-deps.sh agent   what the agent and the lints need
#   install-deps.sh all     the server, its headers and cargo-pgrx besides
#   install-deps.sh peers   other replicators, which the benchmarks compare us with
# As an ordinary user it goes through sudo.
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

packages="gcc libc6-dev pkg-config libssl-dev valgrind"
if [ "$1" = peers ]; then
    # Slony-I, pglogical, PgQ, Bucardo and what its functions are written in, plpython3 for the trigger of the original.
    packages="slony1-2-bin postgresql-$PG-slony1-2 postgresql-$PG-pglogical postgresql-$PG-pgq3 bucardo postgresql-plperl-$PG postgresql-plpython3-$PG"
    if [ -n "${PG_CONFIG:-}" ] && [ "$PG_CONFIG" != "/usr/lib/postgresql/$PG/bin/pg_config" ]; then
        say "Debian's packages go into its own PostgreSQL, not into that of $PG_CONFIG" >&2
        exit 1
    fi
elif [ "$1" = all ]; then
    packages="$packages clang libclang-dev"
    # A PostgreSQL of one's own (PG_CONFIG) takes the place of Debian's.
    if [ -z "${PG_CONFIG:-}" ]; then
        packages="$packages postgresql-$PG postgresql-server-dev-$PG"
    fi
    # cargo pgrx test runs its server as another user by sudo, also for root.
    if [ "$(id -u)" = 0 ]; then
        packages="$packages sudo"
    fi
fi

missing=
if command -v dpkg-query >/dev/null 2>&1; then
    for package in $packages; do
        have_package "$package" || missing="$missing $package"
    done
fi
if [ -n "$missing" ]; then
    say "installing$missing"
    # Debian makes and starts a server with the package unless told not to; nobody here needs one.
    conf=/etc/postgresql-common/createcluster.d/pyreplica-tests.conf
    case "$missing" in
        *postgresql-*)
            as_root mkdir -p "${conf%/*}"
            echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
            ;;
        *) conf= ;;
    esac
    output=$(mktemp)
    # shellcheck disable=SC2086  # one word per package
    { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends -o Dpkg::Use-Pty=0 $missing; } >"$output" 2>&1 || failed=yes
    [ -z "$conf" ] || as_root rm -f "$conf"
    if [ "${failed:-}" = yes ]; then
        cat "$output" >&2
        say "could not install$missing" >&2
        exit 1
    fi
    rm -f "$output"
fi

if [ "$1" = all ] && [ "$(cargo pgrx --version 2>/dev/null)" != "cargo-pgrx $PGRX" ]; then
    say "installing cargo-pgrx $PGRX (some minutes)"
    cargo install cargo-pgrx --version "$PGRX" --locked --quiet
fi
