#!/bin/sh
# Builds the agent and installs the extension into the PostgreSQL of PG_CONFIG, both optimised.
# Arguments go to the build of the agent.
set -eu
cargo build --release -p replica_agent "$@"
cargo pgrx install --release -p pyreplica --pg-config "$PG_CONFIG" >/dev/null
