-- The agent's own small schema on a slave. Created by the agent; a slave needs no extension.
create schema if not exists pyreplica_agent;

-- Position of each agent that writes to this database; committed in the transaction that applied the changes.
create table if not exists pyreplica_agent.position (
    agent             text        not null,
    slave             text        not null,
    system_identifier text        not null, -- of the master
    timeline          int         not null, -- of the master
    rank              bigint      not null, -- applied are the transactions with a rank up to this ...
    snapshot          pg_snapshot not null, -- ... that this snapshot sees
    settled           bigint      not null, -- of one chunk: up to this rank none comes that it does not see
    last_xid          xid8,                 -- the transaction whose rank it is, to recognise the master again
    last_ts           timestamptz,          -- time of the last transaction applied, by the master's clock
    batch             bigint      not null, -- number of the last batch, part of the GID
    applied_at        timestamptz not null,
    constraint position_pkey primary key (agent, slave)
) with (fillfactor = 20);

-- Tables whose rows have been copied. (The row without names is of queued statements, which a stream that was set back
-- does not run again.) Changes by transactions that the snapshot sees are in the copy.
create table if not exists pyreplica_agent.copied_table (
    agent       text        not null,
    slave       text        not null,
    schema_name text        not null,
    table_name  text        not null,
    trigger_oid oid         not null, -- the capturing trigger on the master: another one means it was added anew
    snapshot    pg_snapshot not null,
    rows        bigint,               -- NULL when it was taken to be in step (initial = "current" or "oldest")
    table_oid   oid,                  -- of the slave's table that was filled: another one means that it was made anew
    copied_at   timestamptz not null default clock_timestamp(),
    constraint copied_table_pkey primary key (agent, slave, schema_name, table_name)
);

-- What is still to be run of the schema that was brought for the initial copy: indexes and constraints come after the rows.
create table if not exists pyreplica_agent.pending_schema (
    id        bigint  generated always as identity constraint pending_schema_pkey primary key,
    agent     text    not null,
    slave     text    not null,
    late      boolean not null, -- when all tables are of one moment: foreign keys
    statement text    not null
);

-- Tables that are to be copied again while the others are served.
create table if not exists pyreplica_agent.copy_request (
    agent        text        not null,
    slave        text        not null,
    schema_name  text        not null,
    table_name   text        not null,
    requested_at timestamptz not null default clock_timestamp(),
    error        text,                 -- why it was given up
    constraint copy_request_pkey primary key (agent, slave, schema_name, table_name)
);

-- Large values of a change, cut into pieces; the transaction that fills it empties it.
create unlogged table if not exists pyreplica_agent.piece (
    value int   not null,
    n     int   not null,
    bytes bytea not null
);
alter table pyreplica_agent.piece alter bytes set storage plain;
create index if not exists piece_value on pyreplica_agent.piece (value, n);

-- What the command "skip" has set aside: a queued statement of a transaction, or all of it.
create table if not exists pyreplica_agent.skip (
    agent        text        not null,
    slave        text        not null,
    xid          xid8        not null, -- on the master
    statement    int         not null, -- its number among those that the transaction queued; 0: the whole transaction
    sql          text,
    requested_at timestamptz not null default clock_timestamp(),
    requested_by text        not null default session_user,
    done_at      timestamptz,          -- NULL: the slave has not come to it
    constraint skip_pkey primary key (agent, slave, xid, statement)
);

-- Whose changes come from which master. Those of one node from two masters come twice, but for different tables.
create table if not exists pyreplica_agent.source (
    agent  text        not null,
    slave  text        not null,
    master text        not null, -- pyreplica.node.id there
    node   text        not null, -- that of the node where the changes were made
    since  timestamptz not null default clock_timestamp(),
    constraint source_pkey primary key (agent, slave, node)
);
-- It tells what comes to the slaves of this database.
grant usage on schema pyreplica_agent to public;
grant select on pyreplica_agent.source to public;

-- Changes that did not find the row they expected, or that stopped the slave.
create table if not exists pyreplica_agent.conflict (
    id         bigint      generated always as identity constraint conflict_pkey primary key,
    at         timestamptz not null default clock_timestamp(),
    agent      text        not null,
    slave      text        not null,
    conflict   text        not null, -- insert_exists, update_missing, update_differs, delete_missing, multiple_unique_conflicts, set_aside
    relation   text        not null,
    op         text        not null,
    key        text        not null,
    detail     text,
    applied    boolean     not null, -- whether the change was made all the same
    rank       bigint      not null, -- of the transaction
    xid        xid8        not null, -- on the master
    ts         timestamptz not null,
    username   text,
    origin     text
);
